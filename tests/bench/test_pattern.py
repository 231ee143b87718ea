"""Attention of our making: the schedule is known, and everything else stays as it is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.bench.conftest import MINI
from tokenreduce.bench.pattern import Pattern, seen_by
from tokenreduce.bench.shapes import Grid, NamedShape, TextShape
from tokenreduce.bench.subject import Subject, shape_subject
from tokenreduce.layout import Role
from tokenreduce.plugins import load_plugins
from tokenreduce.reducer import Reducer
from tokenreduce.trace import Trace

REDUCERS = load_plugins(entry_points=[]).registry.reducers


def subject_of(shape: NamedShape = MINI, grid: Grid | None = None, text: int = 8) -> Subject:
    return shape_subject(
        shape, grid or shape.grid, text=text, dtype="float32", device="cpu", attention="sdpa"
    )


def trace_of(subject: Subject, reducer: Reducer, pattern: Pattern) -> Trace:
    with subject.session([seen_by(reducer, pattern)]).attached() as run:
        subject.model(**subject.inputs, use_cache=True, logits_to_keep=1)
        return run.trace


def deep(layers: int) -> NamedShape:
    text = TextShape("llama", layers, 16, 16, 2, 1, 8, 32)
    return NamedShape("deep", "", text, MINI.tower, MINI.grid)


def test_published_attention_makes_the_papers_schedule() -> None:
    """16 frames: after layers 8, 11, ..., 26 of 32, three in ten of the frames go."""
    trace = trace_of(subject_of(deep(32), Grid(16, 2, 2)), REDUCERS["vas"](), "published")
    frames = [16] * 9 + [11] * 3 + [8] * 3 + [6] * 3 + [4] * 3 + [3] * 3 + [2] * 3 + [1] * 5
    assert trace.tokens_per_layer == (tuple(4 * n for n in frames),)
    assert {event.note for event in trace.events} == {"forced: frames"}
    assert trace.img_memory == pytest.approx(0.477, abs=0.02)  # what the paper has for this model


def test_falling_attention_triggers_at_every_layer() -> None:
    subject = subject_of(deep(12), Grid(16, 2, 2))
    vas = REDUCERS["vas"](start_layer=2, end_layer=7)
    trace = trace_of(subject, vas, "falling")
    assert [event.layer for event in trace.events] == [2, 3, 4, 5, 6, 7]
    assert {event.note for event in trace.events} == {"triggered: frames"}
    # The last frame alone rises.
    assert all(15 in {cell[1] for cell in event.kept} for event in trace.events)


def test_the_models_attention_is_passed_through() -> None:
    subject = subject_of()
    fastv = REDUCERS["fastv"]()
    with subject.session([fastv]).attached() as run:
        subject.model(**subject.inputs, use_cache=True, logits_to_keep=1)
    own = run.trace.events[0]
    seen = trace_of(subject, fastv, "model").events[0]
    published = trace_of(subject, fastv, "published").events[0]
    assert (seen.kept, seen.scores) == (own.kept, own.scores)
    assert published.scores != own.scores


@pytest.mark.parametrize("name", sorted(REDUCERS))
def test_every_reducer_runs_under_every_pattern(name: str) -> None:
    subject = subject_of(deep(16), Grid(4, 2, 2))
    for pattern in ("published", "falling"):
        trace = trace_of(subject, REDUCERS[name](), pattern)
        assert trace.visual_tokens == (16,)


def test_scores_are_computed_even_if_a_pattern_takes_their_place() -> None:
    ran: list[str] = []

    def around(name: str, call: Any) -> Any:
        ran.append(name)
        made = call()
        if name == "scoring":
            assert float(made.sum()) > 0
        return made

    subject = subject_of()
    with subject.session([seen_by(REDUCERS["fastv"](), "published", around)]).attached():
        subject.model(**subject.inputs, use_cache=True, logits_to_keep=1)
    assert ran == ["plan", "scoring", "pattern"]


def test_a_seen_reducer_has_its_name_and_settings() -> None:
    vas = REDUCERS["vas"](ratio=0.7)
    seen = seen_by(vas, "published")
    assert (seen.name, seen.model_dump()) == (vas.name, vas.model_dump())
    assert seen.needs() == vas.needs()


def test_a_prompt_is_text_video_text() -> None:
    subject = subject_of(text=8)
    expected = [Role.TEXT] * 2 + [Role.GRID] * 24 + [Role.TEXT] * 6
    assert subject.layout.role.tolist() == [expected]
    assert (subject.visual, subject.tokens) == (24, 32)
