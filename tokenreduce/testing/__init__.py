"""The conformance kit: what every reducer, model adapter and benchmark must keep to, as tests.

>>> from tokenreduce.testing import parametrize_with_checks
>>> @parametrize_with_checks([EveryOther()])  # doctest: +SKIP
... def test_conformance(check):
...     check()

Without pytest, :func:`check_reducer` raises one error that lists what failed. Nothing in the core
imports this package.
"""

from tokenreduce.testing.adapter_checks import AdapterCase
from tokenreduce.testing.check import Check
from tokenreduce.testing.clips import write_clip
from tokenreduce.testing.kit import (
    check_adapter,
    check_benchmark,
    check_reducer,
    checks_for,
    parametrize_with_checks,
)

__all__ = [
    "AdapterCase",
    "Check",
    "check_adapter",
    "check_benchmark",
    "check_reducer",
    "checks_for",
    "parametrize_with_checks",
    "write_clip",
]
