"""Moved to :mod:`tokenreduce.testing.views`; this name goes once nothing imports it."""

from tokenreduce.testing.views import FakeView, constant, grid, prefill

__all__ = ["FakeView", "constant", "grid", "prefill"]
