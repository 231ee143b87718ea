"""Every built-in passes the whole kit, with no expected failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.testing.cases import onevision_cases
from tokenreduce import Reducer
from tokenreduce.plugins import load_plugins
from tokenreduce.testing import parametrize_with_checks
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc

REGISTRY = load_plugins(entry_points=[], warn=lambda line: None).registry
REAL_CLIPS = Path(__file__).parents[2] / "examples" / "real-clips" / "questions.jsonl"
# The others read what does not come with the project: their own tests check them.
BENCHMARKS = {"embedded": {}, "jsonl": {"file": REAL_CLIPS}}
VARIANTS: list[Reducer] = [
    Vas(axis="tokens", interval=1, levels="absolute"),
    FastV(queries="all", layer=0),
    ToMe(r=3),
    Random(layers=(-1, 2), ratios=(0.5, 0.3)),
    Vcc(within="frames", stride=3),
]


@pytest.mark.slow
@parametrize_with_checks([cls() for cls in REGISTRY.reducers.values()])
def test_reducers(check):
    check()


@pytest.mark.slow
@parametrize_with_checks(VARIANTS)
def test_other_settings(check):
    check()


@parametrize_with_checks(onevision_cases())
def test_adapters(check):
    check()


@pytest.mark.slow
@parametrize_with_checks(
    [REGISTRY.benchmark(name)(**values) for name, values in BENCHMARKS.items()]
)
def test_benchmarks(check):
    check()
