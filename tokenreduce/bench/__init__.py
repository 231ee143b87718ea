"""Time, memory and efficiency of reducers: named shapes with random weights, or a checkpoint."""
