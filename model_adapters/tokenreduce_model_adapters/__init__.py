"""Model adapters that come with tokenreduce, one model family per file."""
