"""Runs the checks: all at once with one error, or one test each under pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.adapter import ModelAdapter
from tokenreduce.benchmark import Benchmark
from tokenreduce.errors import ConfigError, ConformanceError
from tokenreduce.names import suggestion
from tokenreduce.reducer import Reducer
from tokenreduce.testing.adapter_checks import ADAPTER_CHECKS, AdapterCase
from tokenreduce.testing.benchmark_checks import BENCHMARK_CHECKS
from tokenreduce.testing.check import Check
from tokenreduce.testing.model_checks import MODEL_CHECKS
from tokenreduce.testing.plan_checks import PLAN_CHECKS
from tokenreduce.testing.settings_checks import REDUCER_SETTINGS_CHECKS

if TYPE_CHECKING:
    import pytest

Subject = Reducer | Benchmark | AdapterCase

REDUCER_CHECKS = (*REDUCER_SETTINGS_CHECKS, *PLAN_CHECKS, *MODEL_CHECKS)


def all_checks(subject: Subject) -> tuple[Check, ...]:
    """Return every check of the subject's kind, those that do not apply included.

    Raises
    ------
    ConfigError
        If it is neither a reducer, a benchmark nor an :class:`AdapterCase`.
    """
    if isinstance(subject, Reducer):
        return REDUCER_CHECKS
    if isinstance(subject, Benchmark):
        return BENCHMARK_CHECKS
    if isinstance(subject, AdapterCase):
        return ADAPTER_CHECKS
    raise ConfigError(
        f"{subject!r} cannot be checked: give an instance of a Reducer or a Benchmark, or an "
        "AdapterCase(adapter, model=..., inputs=...)."
    )


def checks_for(subject: Subject) -> tuple[Check, ...]:
    """Return the checks that apply, by what the subject declares."""
    return tuple(check for check in all_checks(subject) if check.applies(subject))


def check_reducer(reducer: Reducer) -> None:
    """Run every check that applies to a reducer.

    Parameters
    ----------
    reducer
        With the settings to check it under; every check runs on them.

    Raises
    ------
    ConformanceError
        Naming every check that failed, and why.
    """
    _check_all(reducer)


def check_benchmark(benchmark: Benchmark) -> None:
    """Run every check that applies to a benchmark; see :func:`check_reducer`."""
    _check_all(benchmark)


def check_adapter(
    adapter: ModelAdapter,
    *,
    model: Callable[[], Any],
    inputs: Callable[[], Mapping[str, Any]],
    save: Callable[[Any, Path], None] | None = None,
) -> None:
    """Run every check that applies to a model adapter; see :func:`check_reducer`.

    Parameters
    ----------
    adapter
        It need not be installed.
    model, inputs, save
        See :class:`AdapterCase`.
    """
    _check_all(AdapterCase(adapter, model, inputs, save))


def parametrize_with_checks(
    subjects: Sequence[Subject], *, expected_failures: Mapping[str, str] | None = None
) -> pytest.MarkDecorator:
    """Make one pytest test of every check that applies.

    Parameters
    ----------
    subjects
        Instances of reducers and benchmarks, and adapter cases.
    expected_failures
        Check name to the reason why it fails: a strict ``xfail``, so that a check that passes
        after all is a failure.

    Raises
    ------
    ConfigError
        If ``expected_failures`` names no check of any of the subjects.

    Examples
    --------
    >>> @parametrize_with_checks([EveryOther()])  # doctest: +SKIP
    ... def test_conformance(check):
    ...     check()
    """
    import pytest

    expected = dict(expected_failures or {})
    known = sorted({check.name for subject in subjects for check in all_checks(subject)})
    for name in expected:
        if name not in known:
            raise ConfigError(f"there is no check '{name}': {suggestion(name, known)}")
    cases = []
    for subject in subjects:
        for check in checks_for(subject):
            reason = expected.get(check.name)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason is not None else []
            run = partial(check.function, subject)
            cases.append(pytest.param(run, id=f"{subject.name}-{check.name}", marks=marks))
    return pytest.mark.parametrize("check", cases)


@dataclass(frozen=True, slots=True)
class Failure:
    """One check that failed."""

    check: str
    error: Exception

    def __str__(self) -> str:
        notes = "".join(f" ({note})" for note in getattr(self.error, "__notes__", ()))
        kind = "" if isinstance(self.error, ConformanceError) else f"{type(self.error).__name__}: "
        return f"{self.check}: {kind}{self.error}{notes}"


def failures(subject: Subject) -> list[Failure]:
    """Run every check that applies, and return those that failed."""
    failed = []
    for check in checks_for(subject):
        try:
            check.function(subject)
        except Exception as error:  # whatever a check runs into is a failure of the subject
            failed.append(Failure(check.name, error))
    return failed


def _check_all(subject: Subject) -> None:
    failed = failures(subject)
    if failed:
        listed = "".join(f"\n  {failure}" for failure in failed)
        total = len(checks_for(subject))
        raise ConformanceError(f"'{subject.name}' fails {len(failed)} of {total} checks:{listed}")
