"""Results of ablations and comparisons, read from a results file."""

from tokenreduce.results.results import Results

__all__ = ["Results"]
