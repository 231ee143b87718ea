"""Every family under every built-in reducer, and the page that says so."""

from __future__ import annotations

import pytest

from tests.adapters.matrix import FAMILIES, NAMES, PAGE, SIGNS, outcome, page
from tokenreduce.plugins import BUILTINS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("reducer", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_generation_equals_the_oracle(family: str, reducer: str) -> None:
    assert outcome(family, reducer) in SIGNS


def test_no_builtin_is_left_out() -> None:
    assert set(NAMES) == {b.plugin for b in BUILTINS if b.kind == "reducers"}
    adapters = {b.plugin for b in BUILTINS if b.kind == "adapters"} - {"generic"}
    assert {case.adapter.name for case in FAMILIES.values()} == adapters


@pytest.mark.timeout(900)  # by itself it runs the whole matrix
def test_the_page_says_what_was_seen() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
