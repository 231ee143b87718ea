"""The paper, row by row: its numbers, recipes that make ours, and the two beside each other."""
