"""Each check catches a broken reducer, and it alone does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testing.broken_reducers import BROKEN, Hoards, Sound, SoundScore
from tokenreduce import Reducer
from tokenreduce.errors import ConformanceError
from tokenreduce.testing import check_reducer, checks_for
from tokenreduce.testing.kit import REDUCER_CHECKS, failures

CASES = [(check, reducer) for check, reducers in BROKEN.items() for reducer in reducers]
each = pytest.mark.parametrize(
    ("check", "reducer"), CASES, ids=[f"{check}-{type(r).__name__}" for check, r in CASES]
)


@pytest.fixture(autouse=True)
def hoard() -> Iterator[None]:
    yield
    Hoards.seen.clear()


def test_every_check_has_its_broken_reducer() -> None:
    assert [check.name for check in REDUCER_CHECKS] == list(BROKEN)


@each
def test_check_catches_it(check: str, reducer: Reducer) -> None:
    (function,) = [each.function for each in checks_for(reducer) if each.name == check]
    fresh = reducer.model_copy()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what a reducer raises is its own
        function(fresh)
    assert str(caught.value)


@pytest.mark.slow
@each
def test_no_other_check_does(check: str, reducer: Reducer) -> None:
    assert [failure.check for failure in failures(reducer.model_copy())] == [check]


@pytest.mark.slow
@pytest.mark.parametrize("reducer", [Sound(), SoundScore()], ids=lambda each: each.name)
def test_what_is_sound_passes(reducer: Reducer) -> None:
    check_reducer(reducer)


def test_one_error_lists_all_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenreduce.testing import kit

    class Twice(BROKEN["frozen"][0].__class__):  # type: ignore[misc]
        name = "twice"
        budget_fields = {"ratoi": (0.0, 0.5)}  # noqa: RUF012 - a broken declaration

    few = [c for c in REDUCER_CHECKS if c.name in ("frozen", "budget_fields_are_settings")]
    monkeypatch.setattr(kit, "REDUCER_CHECKS", tuple(few))
    with pytest.raises(ConformanceError, match="'twice' fails 2 of 2 checks") as caught:
        check_reducer(Twice())
    _, *lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [check.name for check in few]
    assert "ratoi" in lines[1]
