"""Token reducers that come with tokenreduce, one method per file."""
