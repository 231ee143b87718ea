"""Budgets against brute force over every setting, with counts worked out by hand."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from tokenreduce.ablations.budget import Solution, solve
from tokenreduce.ablations.held_out import over_videos, slice_of
from tokenreduce.ablations.input_share import Size, frames_share
from tokenreduce.ablations.knobs import knobs_of
from tokenreduce.ablations.search import Steps, nearest_calibrated, nearest_exact
from tokenreduce.benchmark import Sample
from tokenreduce.cells import Budget, Cell, Setup
from tokenreduce.cost import DecoderShape, prefill_cost
from tokenreduce.errors import ConfigError
from tokenreduce.plan import Plan
from tokenreduce.reducer import Reducer
from tokenreduce.testing.views import grid, prefill
from tokenreduce_plugins.div_prune import DivPrune
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.pyramid_drop import PyramidDrop
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.sparse_vlm import SparseVLM
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vcc import Vcc

LAYERS = 32
FRAMES = (3, 8)
"""Clips of two lengths, of 5 x 4 tokens a frame: shares are means over both."""

TARGETS = (0.1, 0.25, 0.4, 0.5, 0.62, 0.75, 0.9, 1.0)


def half_up(share: int, tokens: int) -> int:
    """Return tokens * share / 10000, rounded half up, in integers."""
    return (2 * tokens * share + 10_000) // 20_000


def held(counts: list[tuple[int, int]]) -> int:
    """Add up layers: ``(layers, tokens that each of them holds)``."""
    assert sum(layers for layers, _ in counts) == LAYERS
    return sum(layers * tokens for layers, tokens in counts)


def keep(tokens: int, step: int) -> int:
    """Return what is left when step / 10000 goes."""
    return max(1, half_up(10_000 - step, tokens))


def fastv(n: int, step: int) -> int:
    return held([(2, n), (30, keep(n, step))])


def before_all(n: int, step: int) -> int:
    return held([(32, keep(n, step))])


def first_frame_stays(n: int, step: int) -> int:
    return held([(32, max(20, keep(n, step)))])


def twice(n: int, step: int) -> int:
    return held([(12, n), (8, keep(n, step)), (12, keep(keep(n, step), step))])


def pyramid(n: int, step: int) -> int:
    first = keep(n, step)
    second = keep(first, step)
    return held([(8, n), (8, first), (8, second), (8, keep(second, step))])


def tome(n: int, step: int) -> int:
    wanted, total, left = half_up(step, n), 0, n
    for layer in range(LAYERS):
        total += left
        if layer < 24:
            left -= min(wanted, left // 2)
    return total


def sparse(n: int, step: int) -> int:
    scale, left, total, done = 500 + step, n, 0, 0
    for after, share in ((3, 300), (7, 200), (16, 110)):
        total += (after - done) * left
        part = (2 * n * share * scale + 576 * 10_000) // (2 * 576 * 10_000)
        left, done = min(left, n, max(1, part)), after
    return total + (LAYERS - done) * left


def vcc(n: int, step: int) -> int:
    return held([(2, n), (30, -(-n // (1 + step)))])


SCHEDULES: list[Any] = [
    pytest.param(FastV(), fastv, 9900, id="fastv"),
    pytest.param(DivPrune(), before_all, 9900, id="div_prune"),
    pytest.param(Evs(), first_frame_stays, 9900, id="evs"),
    pytest.param(Random(ratios=(0.2, 0.7)), twice, 9900, id="random"),
    pytest.param(PyramidDrop(), pyramid, 9900, id="pyramid_drop"),
    pytest.param(SparseVLM(), sparse, 51_500, id="sparse_vlm"),
    pytest.param(ToMe(), tome, 5000, id="tome"),
    pytest.param(Vcc(), vcc, 15, id="vcc"),
]


def noise(name: str, layer: int) -> torch.Tensor:
    """Return what a model may have computed, over the tokens of the longest clip."""
    generator = torch.Generator().manual_seed(layer + 2)
    return torch.rand(2, 20 * max(FRAMES), generator=generator)


def evaluate(reducers: tuple[Reducer, ...]) -> float:
    """Ask the reducer itself, on views of noise."""
    (reducer,) = reducers

    def states(layer: int) -> torch.Tensor:
        return noise("", layer).T @ torch.eye(2, 6)

    shares = [
        prefill(
            reducer,
            grid(frames, 5, 4),
            LAYERS,
            attention=lambda rows, layer, n=20 * frames: noise(rows, layer)[:, :n],
            keys=lambda layer, n=20 * frames: states(layer)[:n, None, :],
            hidden=lambda layer, n=20 * frames: states(layer)[:n],
            text=torch.rand(3, 6, generator=torch.Generator().manual_seed(0)),
        ).img_memory
        for frames in FRAMES
    ]
    return fmean(shares)


@cache
def every_share(by_hand: Callable[[int, int], int], last: int) -> list[float]:
    """Return the mean share at every setting."""
    sizes = [20 * frames for frames in FRAMES]
    return [fmean(by_hand(n, step) / (n * LAYERS) for n in sizes) for step in range(last + 1)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("reducer", "by_hand", "last"), SCHEDULES)
def test_exact_solutions_are_the_best_of_all_settings(reducer, by_hand, last, target):
    shares = [
        fmean(by_hand(20 * f, k) / (20 * f * LAYERS) for f in FRAMES) for k in range(last + 1)
    ]
    best = min(abs(share - target) for share in shares)

    found = solve([reducer], target, "img_memory", 0.005, evaluate, exact=True)

    assert abs(found.reached - target) == pytest.approx(best, abs=1e-12)
    assert found.within == (best <= 0.005)
    assert bool(found.note) != found.within
    assert found.evaluations <= 22
    below = [share for share in shares if share <= target + 1e-12]
    above = [share for share in shares if share > target + 1e-12]
    for neighbour, side, nearest in ((found.below, below, max), (found.above, above, min)):
        if side:
            assert neighbour is not None
            assert neighbour[1] == pytest.approx(nearest(side), abs=1e-12)
        else:
            assert neighbour is None


@given(
    tokens=st.lists(st.integers(1, 3000), min_size=1, max_size=4),
    layer=st.integers(0, LAYERS - 2),
    target=st.floats(0.01, 1),
)
def test_any_arithmetic_schedule_is_solved_to_its_best_step(tokens, layer, target):
    def share(step: int) -> float:
        counts = [((layer + 1) * n + (LAYERS - layer - 1) * keep(n, step), n) for n in tokens]
        return fmean(count / (LAYERS * n) for count, n in counts)

    def evaluate(reducers: tuple[Reducer, ...]) -> float:
        (reducer,) = reducers
        return share(round(10_000 * reducer.ratio))

    found = solve([FastV(layer=layer)], target, "img_memory", 0.005, evaluate, exact=True)

    best = min(abs(share(step) - target) for step in range(9901))
    assert abs(found.reached - target) == pytest.approx(best, abs=1e-12)
    assert share(round(10_000 * found.reducers[0]["ratio"])) == found.reached


def test_short_settings_are_preferred_where_they_cost_nothing():
    found = solve([Evs()], 0.5, "img_memory", 0.005, evaluate, exact=True)
    assert found.reducers[0]["ratio"] == 0.5
    assert found.below == ("ratio=0.5", 0.5)


# Noisy functions.


@settings(deadline=None)
@given(
    root=st.floats(0.05, 0.95),
    rises=st.booleans(),
    seed=st.integers(0, 1000),
    stairs=st.sampled_from([100, 400, 5000]),
)
def test_noise_and_stairs_do_not_mislead(root, rises, seed, stairs):
    """A mean over data: monotone but for noise of 0.1 points, in stairs of at most one point."""
    last = 9900

    def share_at(step: int) -> float:
        place = math.floor(step / last * stairs) / stairs
        mean = place if rises else 1 - place
        wobble = torch.Generator().manual_seed(1000 * step + seed)
        return mean + 0.001 * (2 * float(torch.rand((), generator=wobble)) - 1)

    steps = Steps(share_at, last, root)
    found = nearest_calibrated(steps, 0.0005, 0.005, grain=10)

    assert abs(steps.seen[found] - root) <= max(0.005, 0.5 / stairs + 0.002)
    assert abs(steps.seen[found] - root) == min(abs(each - root) for each in steps.seen.values())
    assert len(steps.seen) <= 40


def test_smooth_functions_take_a_few_evaluations():
    steps = Steps(lambda step: 1 - (step / 9900) ** 1.7, 9900, 0.37)
    assert abs(steps.seen[nearest_calibrated(steps, 0.0005, 0.005, grain=10)] - 0.37) <= 0.001
    assert len(steps.seen) <= 9


def test_a_jump_over_the_target_gives_its_nearer_side():
    steps = Steps(lambda step: 0.9 if step < 4321 else 0.35, 9900, 0.5)
    found = nearest_calibrated(steps, 0.0005, 0.005, grain=10)
    assert steps.seen[found] == 0.35
    assert {4320, 4330} <= steps.seen.keys()


def test_a_target_between_the_ends_is_found_inside():
    """Both ends are above: the ends alone would say that it cannot be reached."""
    steps = Steps(lambda step: 0.3 + abs(step - 7000) / 9900, 9900, 0.4)
    found = nearest_calibrated(steps, 0.0005, 0.005, grain=10)
    assert abs(steps.seen[found] - 0.4) <= 0.005


@given(last=st.integers(1, 300), target=st.floats(0, 1), data=st.data())
def test_bisection_ends_between_two_neighbours(last, target, data):
    size = last + 1
    values = sorted(data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size)))
    if data.draw(st.booleans()):
        values.reverse()
    steps = Steps(values.__getitem__, last, target)
    found = nearest_exact(steps)
    assert abs(values[found] - target) == min(abs(value - target) for value in values)
    assert len(steps.seen) <= 2 + math.ceil(math.log2(last + 1))


# Settings.


class Two(Reducer):
    """A share is one minus the first setting, minus a tenth of the second."""

    name: ClassVar[str] = "two"
    budget_fields: ClassVar[Any] = {"first": (0.0, 0.5), "second": (0, 4)}

    first: float = Field(0.1, ge=0, le=0.5)
    second: int = Field(1, ge=0, le=4)

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Act after the first layer."""
        return (0,)

    def plan(self, view: Any) -> Plan | None:
        """Do nothing."""
        return None


def share_of_two(reducers: tuple[Reducer, ...]) -> float:
    return max(0.3, 1 - sum(each.first + each.second / 10 for each in reducers))


@pytest.mark.parametrize(
    ("target", "first", "second", "note"),
    [
        (0.72, 0.18, 1, ""),
        (0.4, 0.5, 1, ""),
        (0.303, 0.5, 2, ""),
        (0.2, 0.5, 2, "cannot reach 0.2: nearest is 0.300 at first=0.5, second=2"),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_a_second_setting_is_turned_only_where_the_first_does_not_reach(
    target, first, second, note, exact
):
    found = solve([Two()], target, "img_memory", 0.005, share_of_two, exact=exact)
    (settings,) = found.reducers
    assert settings["use"] == "two"
    assert settings["first"] == pytest.approx(first, abs=0.0006)
    assert share_of_two((Two(**{k: v for k, v in settings.items() if k != "use"}),)) == (
        found.reached
    )
    if note:
        assert found.note == note.replace("second=2", f"second={settings['second']}")
    else:
        assert (found.note, settings["second"]) == ("", second)


def test_composed_lists_are_turned_from_the_last_reducer_that_can_be():
    reducers = [FastV(ratio=0.2), Vcc(), KeepAll()]
    turned = [(knob.stage, knob.field) for knob in knobs_of(reducers)]
    assert turned == [(1, "stride"), (0, "ratio")]

    def share(tried: tuple[Reducer, ...]) -> float:
        return (1 - tried[0].ratio) / tried[1].stride

    alone = solve(reducers, 0.4, "img_memory", 0.005, share, exact=True)
    assert [alone.reducers[0]["ratio"], alone.reducers[1]["stride"]] == [0.2, 2]
    both = solve(reducers, 0.45, "img_memory", 0.005, share, exact=True)
    assert [both.reducers[0]["ratio"], both.reducers[1]["stride"]] == [0.1, 2]
    assert both.reached == pytest.approx(0.45)
    low = solve(reducers, 0.0001, "img_memory", 1e-5, share, exact=True)
    assert low.note == "cannot reach 0.0001: nearest is 0.001 at vcc stride=16, fastv ratio=0.99"


def test_values_of_a_setting_are_the_decimals_that_are_written():
    (knob,) = knobs_of([SparseVLM()])
    assert knob.last == 51_500
    for step in range(0, knob.last + 1, 7):
        assert knob.value(step) == float(f"{500 + step}e-4")
        assert knob.step_of(knob.value(step)) == step
    assert knob.turned([SparseVLM()], 0)[0] == SparseVLM(scale=0.05)
    (knob,) = knobs_of([Vcc()])
    assert [knob.value(step) for step in range(knob.last + 1)] == list(range(1, 17))
    assert isinstance(knob.value(0), int)


def test_reducers_without_settings_to_turn_stay_as_they_are():
    row = [KeepAll(), TemporalAverage()]
    found = solve(row, 0.5, "flops", 0.005, lambda reducers: 0.8125)
    assert (found.note, found.method) == ("no setting to turn", "as it is")
    assert (found.reached, found.within, found.evaluations) == (0.8125, False, 1)
    assert [stage["use"] for stage in found.reducers] == ["keep_all", "temporal_average"]


@pytest.mark.parametrize("target", [0, -0.1, 1.01, math.nan, math.inf])
def test_a_target_outside_the_unit_interval_is_refused(target):
    with pytest.raises(ConfigError, match=r"budget kv_bytes .* is outside \(0, 1\]"):
        solve([FastV()], target, "kv_bytes", 0.005, evaluate)


def test_an_unreachable_target_says_what_is_nearest():
    found = solve([FastV(layer=9)], 0.25, "img_memory", 0.005, evaluate, exact=True)
    nearest = fmean((10 * n + 22 * keep(n, 9900)) / (32 * n) for n in (60, 160))
    assert found.reached == pytest.approx(nearest)
    assert found.note == f"cannot reach 0.25: nearest is {nearest:.3f} at ratio=0.99"
    assert found.below is None
    assert found.above == ("ratio=0.99", found.reached)


def test_solutions_go_to_json_and_back_and_into_cells():
    found = solve([PyramidDrop()], 0.5, "img_memory", 0.005, evaluate, exact=True)
    found = replace(found, questions=12, error=0.0012, frames_share=0.5)
    again = Solution.from_json(found.to_json())
    assert again == found
    settings = {**again.reducers[0]}
    assert PyramidDrop(**{k: v for k, v in settings.items() if k != "use"}).layers

    setup = Setup("embedded", {"use": "embedded"})
    cell = Cell(setup, "row", "row", ({"use": "x"},), budget=Budget("img_memory", 0.5))
    solved = again.applied(cell)
    assert solved.reducers == found.reducers
    assert solved.frames_share == 0.5
    assert solved.budget == Budget("img_memory", 0.5, 0.005, found.reached, "")
    assert (solved.label, solved.setup) == (cell.label, setup)


# Held-out videos.


def questions(videos: int, folder: str = "a") -> list[Sample]:
    """Three questions about each clip; lengths and categories take turns."""
    return [
        Sample(
            f"{video:03d}-{n}",
            Path(folder) / f"{video}.mp4",
            "?",
            "yes",
            f"category {video // 4 % 3}",
            (8, 16, 32, 64)[video % 4],
        )
        for video in range(videos)
        for n in range(3)
    ]


@given(videos=st.integers(2, 60), share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_slices_are_whole_videos_and_enough_of_them(videos, share, seed):
    samples = questions(videos)
    held_out, rest = slice_of(samples, share, seed)
    assert sorted([*held_out, *rest], key=samples.index) == samples
    assert held_out == sorted(held_out, key=samples.index)
    inside, outside = ({s.video for s in part} for part in (held_out, rest))
    assert inside
    assert outside
    assert not inside & outside
    assert len(inside) >= min(4, videos // 2 if videos >= 8 else 1)
    assert abs(len(inside) - share * videos) <= 0.5 or len(inside) in (1, 4, videos - 1)


def test_slices_follow_from_seed_and_questions_not_from_folders_or_order():
    samples = questions(24)
    chosen = {s.id for s in slice_of(samples, 0.25, 0)[0]}
    assert {s.id for s in slice_of(samples[::-1], 0.25, 0)[0]} == chosen
    assert {s.id for s in slice_of(questions(24, "elsewhere"), 0.25, 0)[0]} == chosen
    assert len({frozenset(s.id for s in slice_of(samples, 0.25, k)[0]) for k in range(5)}) > 1


@pytest.mark.parametrize("seed", range(4))
def test_slices_are_spread_over_lengths_and_categories(seed):
    held_out, _ = slice_of(questions(48), 0.25, seed)
    kinds = [(s.frames, s.category) for s in held_out[::3]]
    assert len(kinds) == len(set(kinds)) == 12  # of 4 lengths and 3 categories one video each


@given(videos=st.integers(1, 12), count=st.integers(1, 40))
def test_questions_are_of_as_many_videos_as_can_be(videos, count):
    samples = questions(videos)
    chosen = over_videos(samples, count)
    assert chosen == [s for s in samples if s in chosen]
    assert len(chosen) == min(count, 3 * videos)
    each = Counter(s.video for s in chosen)
    assert len(each) == min(count, videos)
    assert max(each.values()) - min(each.values()) <= 1


def test_questions_of_one_turn_are_of_all_kinds():
    chosen = over_videos(questions(12), 12)
    assert Counter(sample.id[-1] for sample in chosen) == {"0": 4, "1": 4, "2": 4}


@pytest.mark.parametrize("share", [0, 1, -1, 1.5, math.nan])
def test_a_slice_outside_the_open_unit_interval_is_refused(share):
    with pytest.raises(ConfigError, match="budget slice"):
        slice_of(questions(9), share)


def test_one_video_cannot_be_held_out():
    with pytest.raises(ConfigError, match="there are 1: give at least two"):
        slice_of(questions(1), 0.5)


# Fewer frames.

SHAPE = DecoderShape(
    layers=3,
    hidden=64,
    intermediate=160,
    heads=4,
    key_heads=2,
    head_dim=16,
    vocabulary=500,
)


@given(
    prompts=st.lists(st.tuples(st.integers(1, 400), st.integers(1, 300)), min_size=1, max_size=4),
    steps=st.integers(1, 100),
    measure=st.sampled_from(["img_memory", "flops", "kv_bytes"]),
)
def test_the_share_of_frames_costs_what_was_asked_for(prompts, steps, measure):
    """Videos whose tokens are hundreds, shown in hundredths, so that all counts are whole."""
    sizes = [Size(text + 100 * video, 100 * video) for text, video in prompts]

    def share(hundredths: int, size: Size) -> float:
        left = size.tokens - size.video + size.video * hundredths // 100
        if measure == "img_memory":
            return hundredths / 100
        if measure == "kv_bytes":
            return left / size.tokens
        costs = [prefill_cost(SHAPE, [n] * SHAPE.layers).total for n in (left, size.tokens)]
        return costs[0] / costs[1]

    target = fmean(share(steps, size) for size in sizes)
    assert frames_share(measure, target, sizes, SHAPE) == pytest.approx(steps / 100, abs=1e-4)


def test_a_budget_below_the_texts_own_cost_shows_one_frame():
    assert frames_share("kv_bytes", 0.1, [Size(1000, 500)], SHAPE) == 0.0001
    assert frames_share("flops", 0.1, [Size(1000, 500)], SHAPE) == 0.0001
