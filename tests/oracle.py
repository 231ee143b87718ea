"""Moved to :mod:`tokenreduce.testing.oracle`; this name goes once nothing imports it."""

from tokenreduce.testing.oracle import Recorder, check_against_oracle, dense_merges, masked

__all__ = ["Recorder", "check_against_oracle", "dense_merges", "masked"]
