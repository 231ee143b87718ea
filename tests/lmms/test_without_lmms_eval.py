"""Without the extra, nothing imports lmms-eval, and what needs it says so."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tokenreduce.errors import ConfigError
from tokenreduce.lmms.benchmark import LmmsBenchmark


def imported_by(code: str) -> set[str]:
    """Return the top-level packages that a program has imported at its end."""
    program = f"{code}\nimport sys\nprint(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_what_lmms_eval_imports_of_every_run_is_light() -> None:
    found = imported_by("import tokenreduce.lmms.manifest")
    assert "tokenreduce" in found
    assert not found & {"torch", "transformers", "numpy", "lmms_eval", "pydantic"}


def test_listing_benchmarks_imports_neither_it_nor_torch() -> None:
    found = imported_by(
        "from tokenreduce.plugins import load_plugins\n"
        "assert 'lmms' in load_plugins(entry_points=[]).registry.benchmarks"
    )
    assert not found & {"torch", "transformers", "lmms_eval"}


def test_the_benchmark_says_which_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"lmms-eval cannot be imported .*tokenreduce\[lmms\]"):
        LmmsBenchmark(task="videomme").samples()
