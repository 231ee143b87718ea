"""The kit under pytest, in a session of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tokenreduce.errors import ConfigError
from tokenreduce.testing import checks_for, parametrize_with_checks
from tokenreduce.testing.kit import REDUCER_CHECKS
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll

ROOT = Path(__file__).parent.parent.parent
USER = """
from tests.testing.broken_reducers import Assignable, Sound
from tokenreduce.testing import parametrize_with_checks

@parametrize_with_checks([Assignable()], expected_failures={"frozen": "a known gap"})
def test_known(check):
    check()

@parametrize_with_checks([Sound()], expected_failures={"frozen": "is mended by now"})
def test_mended(check):
    check()
"""


@pytest.mark.slow
def test_expected_failures_are_strict(tmp_path: Path) -> None:
    (tmp_path / "test_user.py").write_text(USER)
    paths = [str(ROOT), str(ROOT / "plugins"), str(ROOT / "model_adapters")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-k", "frozen", "-rxf", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "test_known[sound-frozen] - a known gap" in done.stdout, done.stdout + done.stderr
    assert "[XPASS(strict)] is mended by now" in done.stdout
    assert "1 failed" in done.stdout
    assert "1 xfailed" in done.stdout


def test_one_case_per_check_and_only_the_expected_is_marked() -> None:
    mark = parametrize_with_checks([KeepAll(), FastV()], expected_failures={"frozen": "why"})
    cases = {case.id: case.marks for case in mark.args[1]}
    wanted = [f"{r.name}-{c.name}" for r in (KeepAll(), FastV()) for c in checks_for(r)]
    assert list(cases) == wanted
    for name, marks in cases.items():
        assert [m.kwargs for m in marks] == (
            [{"reason": "why", "strict": True}] if name.endswith("-frozen") else []
        )


def test_unknown_expectations_and_subjects_are_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean 'frozen'"):
        parametrize_with_checks([KeepAll()], expected_failures={"frozzen": "?"})
    with pytest.raises(ConfigError, match="cannot be checked"):
        parametrize_with_checks([KeepAll])  # type: ignore[list-item]


def test_checks_follow_what_is_declared() -> None:
    optional = {"identity_at_zero", "counts_as_declared", "budget_fields_are_settings"}
    names = {check.name for check in REDUCER_CHECKS}
    assert {check.name for check in checks_for(FastV())} == names
    assert {check.name for check in checks_for(KeepAll())} == names - optional


def test_every_check_says_what_it_requires() -> None:
    for check in REDUCER_CHECKS:
        assert (check.function.__doc__ or "").strip().splitlines()[0].endswith(".")
