"""What holds for every plan of every reducer, on whatever view."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenreduce.testing.views import FakeView, grid, prefill
from tokenreduce_plugins.div_prune import DivPrune
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.frame_fusion import FrameFusion
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.pyramid_drop import PyramidDrop
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.sparse_vlm import SparseVLM
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc
from tokenreduce_plugins.vtw import Vtw

LAYERS = 14
ratios = st.sampled_from([0, 0.1, 0.3, 0.5, 0.9])
layers = st.lists(st.integers(0, LAYERS - 1), min_size=1, max_size=3, unique=True).map(
    lambda found: tuple(sorted(found))
)
reducers = {
    "keep_all": st.just(KeepAll()),
    "fastv": st.builds(
        FastV,
        layer=st.integers(0, LAYERS - 1),
        ratio=ratios,
        queries=st.sampled_from(["last", "text", "all"]),
    ),
    "vcc": st.builds(
        Vcc,
        layer=st.integers(-1, LAYERS - 1),
        stride=st.integers(1, 5),
        within=st.sampled_from(["sequence", "frames"]),
    ),
    "random": st.builds(Random, layers=layers, ratios=ratios),
    "spatial_average": st.builds(
        SpatialAverage, layers=layers, axis=st.sampled_from(["auto", "columns", "rows"])
    ),
    "temporal_average": st.builds(TemporalAverage, layers=layers),
    "tome": st.builds(ToMe, r=st.sampled_from([0, 1, 5, 0.1, 0.4]), end_layer=st.integers(0, 3)),
    "vas": st.builds(
        Vas,
        ratio=ratios,
        interval=st.integers(1, 4),
        start_layer=st.integers(0, 9),
        axis=st.sampled_from(["auto", "frames", "positions", "tokens"]),
        trigger_share=st.sampled_from([None, 0, 0.5]),
        levels=st.sampled_from(["relative", "absolute"]),
        drop_all_at_end=st.booleans(),
    ),
    "pyramid_drop": st.builds(
        PyramidDrop,
        layers=layers.filter(lambda found: found[-1] < LAYERS - 1),
        ratios=ratios,
    ),
    "sparse_vlm": st.builds(SparseVLM, scale=st.sampled_from([0.1, 0.5, 1, 1.9])),
    "frame_fusion": st.builds(
        FrameFusion,
        cost=st.sampled_from([0.05, 0.3, 0.9, 1]),
        threshold=st.sampled_from([-1, 0, 0.6, 1]),
        least_share=st.sampled_from([0.01, 0.1, 1]),
        start_layer=st.integers(-1, LAYERS - 2),
    ),
    "evs": st.builds(Evs, ratio=ratios, layer=st.integers(-1, LAYERS - 1)),
    "div_prune": st.builds(DivPrune, ratio=ratios, layer=st.integers(-1, LAYERS - 1)),
    "vtw": st.builds(Vtw, layer=st.integers(-1, LAYERS - 1)),
}
MERGING = {"vcc", "tome", "spatial_average", "temporal_average"}
BOTH = {"frame_fusion"}
by_name = pytest.mark.parametrize("name", sorted(reducers))


@st.composite
def samples(draw):
    """Cells of up to three grids with gaps, how many originals each stands for, and a seed."""
    cells = []
    for item in range(draw(st.integers(1, 3))):
        full = grid(*(draw(st.integers(1, 4)) for _ in range(3)), item=item)
        gaps = draw(st.sets(st.integers(0, len(full) - 1), max_size=len(full) // 2))
        cells += [cell for number, cell in enumerate(full) if number not in gaps]
    sizes = draw(st.lists(st.integers(1, 4), min_size=len(cells), max_size=len(cells)))
    return cells, sizes, draw(st.integers(0, 2**16))


def tensors(tokens, seed):
    """Attention, keys and hidden states of few different values, so that ties are common."""

    def draw(*shape, salt):
        generator = torch.Generator().manual_seed(seed * 97 + salt)
        return torch.randint(0, 4, shape, generator=generator).float()

    rows = {"last": 1, "text": 2, "all": 3}
    return (
        lambda which, layer: draw(2, tokens, salt=rows[which] * 20 + layer),
        lambda layer: draw(tokens, 2, 3, salt=100 + layer) - 1.5,
        lambda layer: draw(tokens, 3, salt=200 + layer) - 1.5,
    )


def text():
    return torch.tensor([[1.0, 0, 0], [0, 1, 0]])


def views(sample, reducer):
    cells, sizes, seed = sample
    attention, keys, hidden = tensors(len(cells), seed)
    last = -1
    for layer in reducer.acts_after(LAYERS):
        yield FakeView(
            cells,
            layer=layer,
            num_layers=LAYERS,
            size=sizes,
            since=layer - last,
            attention=attention,
            keys=keys(layer),
            hidden=hidden(layer),
            text_embeddings=text(),
            visual_embeddings=hidden(-1),
            needs=reducer.needs(),
            seed=seed,
        )


def half_up(value):
    return math.floor(value + Fraction(1, 2))


def share_left(tokens, ratio):
    return max(1, half_up(tokens * (1 - Fraction(str(ratio)))))


def declared(reducer, view):
    """How many tokens the settings say may be left: ``range``, by arithmetic of its own."""
    tokens = len(view)
    items, frames = view.item.tolist(), view.frame.tolist()
    rows, columns = view.row.tolist(), view.column.tolist()

    def halves(*keys):
        return sum(-(-count // 2) for count in Counter(zip(*keys, strict=True)).values())

    match reducer.name:
        case "fastv" | "random" | "pyramid_drop" | "div_prune":
            staged = reducer.name in ("random", "pyramid_drop")
            kept = share_left(tokens, reducer.ratios if staged else reducer.ratio)
        case "evs":
            cells = Counter(number for number, *_ in set(zip(items, rows, columns, strict=True)))
            each = Counter(items).items()
            kept = sum(max(cells[item], share_left(count, reducer.ratio)) for item, count in each)
        case "sparse_vlm":
            stage = reducer.acts_after(LAYERS).index(view.layer)
            share = Fraction(str(reducer.shares[stage])) * Fraction(str(reducer.scale))
            kept = min(tokens, max(1, half_up(view.total * min(1, share))))
        case "frame_fusion":
            # What it keeps depends on the layers before; its budget has a test of its own.
            return range(1, tokens + 1)
        case "vtw":
            kept = 0
        case "vcc":
            keys = items if reducer.within == "sequence" else zip(items, frames, strict=True)
            kept = sum(-(-count // reducer.stride) for count in Counter(keys).values())
        case "temporal_average":
            kept = halves(items, rows, columns)
        case "spatial_average" if reducer.axis == "columns":
            kept = halves(items, frames, rows)
        case "spatial_average" if reducer.axis == "rows":
            kept = halves(items, frames, columns)
        case "spatial_average":
            return range(-(-tokens // 2), tokens + 1)
        case "tome":
            r = reducer.r
            wanted = r if isinstance(r, int) else half_up(view.total * Fraction(str(r)))
            # A lone token of an item finds no partner, so fewer may merge.
            alone = sum(count == 1 for count in Counter(items).values())
            least = tokens - min(wanted, tokens // 2)
            return range(least, min(tokens, least + alone) + 1)
        case "vas":
            if reducer.drop_all_at_end and view.layer == LAYERS - 5:
                return range(1)
            # Its rounding to whole groups has a test of its own below.
            return range(1, tokens + 1)
        case _:
            kept = tokens
    return range(kept, kept + 1)


@by_name
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_plan_is_valid_and_within_the_declared_schedule(name, data):
    reducer = data.draw(reducers[name])
    sample = data.draw(samples())
    for view in views(sample, reducer):
        cells = [t.clone() for t in (view.item, view.frame, view.row, view.column, view.size)]
        plan = reducer.plan(view)
        left = plan.kept if plan else len(view)
        assert left in declared(reducer, view)
        if plan is None:
            continue
        assert left < len(view)
        plan.validate(len(view), name)
        slots = plan.slot.tolist()
        firsts = [slots.index(slot) for slot in range(plan.kept)]
        assert firsts == sorted(firsts)
        sizes = [0] * (plan.kept + 1)
        for slot, size in zip(slots, view.size.tolist(), strict=True):
            sizes[slot] += size  # the last entry gathers what was dropped
        assert sum(sizes) == view.total
        if name in MERGING:
            assert sizes[-1] == 0
            assert min(sizes[:-1]) >= 1
        elif name not in BOTH:
            assert not plan.merges
        for slot in range(plan.kept):
            assert len({sample[0][j][0] for j, s in enumerate(slots) if s == slot}) == 1, (
                "items mix"
            )
        if plan.scores is not None:
            assert plan.scores.shape == plan.slot.shape
            assert plan.scores.isfinite().all()
        after = [view.item, view.frame, view.row, view.column, view.size]
        assert all(torch.equal(a, b) for a, b in zip(cells, after, strict=True)), "view was written"


@by_name
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_same_seed_same_plan(name, data):
    reducer = data.draw(reducers[name])
    sample = data.draw(samples())
    twin = type(reducer).model_validate(reducer.model_dump(mode="json"))
    assert twin == reducer
    for view, again in zip(views(sample, reducer), views(sample, twin), strict=True):
        one, two, three = reducer.plan(view), twin.plan(again), reducer.plan(view)
        if one is None:
            assert two is None
            assert three is None
        else:
            assert torch.equal(one.slot, two.slot)
            assert torch.equal(one.slot, three.slot)
            assert one.note == two.note


@by_name
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_whole_prefill_accounts_for_every_original(name, data):
    reducer = data.draw(reducers[name])
    cells, _, seed = data.draw(samples())
    attention, keys, hidden = tensors(len(cells), seed)
    done = prefill(
        reducer,
        cells,
        LAYERS,
        attention=attention,
        keys=keys,
        hidden=hidden,
        text=text(),
        seed=seed,
    )
    seen = Counter(token for each in done.members for token in each)
    assert all(times == 1 for times in seen.values())
    if name in MERGING or not done.plans:
        assert sorted(seen) == list(range(len(cells)))
    firsts = [min(each) for each in done.members]
    assert firsts == sorted(firsts)
    assert done.held == sorted(done.held, reverse=True)
    if name != "vtw" and not (name == "vas" and reducer.drop_all_at_end):
        assert done.members, "something always stays"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_vas_removes_whole_groups_and_no_more_than_its_share(data):
    reducer = data.draw(reducers["vas"].filter(lambda each: not each.drop_all_at_end))
    cells, sizes, seed = data.draw(samples())
    for view in views((cells, sizes, seed), reducer):
        plan = reducer.plan(view)
        if plan is None:
            continue
        axis = plan.note.partition(": ")[2]
        key = {
            "frames": lambda cell: cell[:2],
            "positions": lambda cell: (cell[0], *cell[2:]),
            "tokens": lambda cell: cell,
        }[axis]
        whole = Counter(map(key, cells))
        left = Counter(
            key(cell) for cell, slot in zip(cells, plan.slot.tolist(), strict=True) if slot >= 0
        )
        assert all(left[group] == whole[group] for group in left)
        share = Fraction(str(reducer.ratio))
        if len(set(whole.values())) == 1:
            assert len(left) == max(1, half_up(len(whole) * (1 - share)))
        else:
            assert plan.kept >= max(1, half_up(len(cells) * (1 - share)))


@pytest.mark.parametrize(
    "reducer",
    [
        KeepAll(),
        FastV(ratio=0),
        Vcc(stride=1),
        ToMe(r=0),
        ToMe(r=0.0),
        Random(ratios=0),
        Random(ratios=(0, 0)),
        Vas(ratio=0, trigger_share=0, interval=1),
        PyramidDrop(ratios=0),
        SparseVLM(shares=(1, 1, 1)),
        FrameFusion(cost=1),
        Evs(ratio=0),
        DivPrune(ratio=0),
    ],
    ids=repr,
)
def test_nothing_to_remove_is_the_identity(reducer):
    cells = grid(4, 3, 3)
    attention, keys, hidden = tensors(len(cells), 5)
    done = prefill(
        reducer, cells, LAYERS, attention=attention, keys=keys, hidden=hidden, text=text()
    )
    assert done.plans == []
    assert done.held == [36] * LAYERS


EXTREME = {
    "keep_all": KeepAll(),
    "fastv": FastV(ratio=0.9),
    "vcc": Vcc(),
    "random": Random(),
    "spatial_average": SpatialAverage(),
    "temporal_average": TemporalAverage(),
    "tome": ToMe(r=9),
    "vas": Vas(ratio=0.9, interval=1),
    "pyramid_drop": PyramidDrop(ratios=0.9),
    "sparse_vlm": SparseVLM(scale=0.05),
    "frame_fusion": FrameFusion(cost=0.05),
    "evs": Evs(ratio=0.9),
    "div_prune": DivPrune(),
}


@pytest.mark.parametrize("name", sorted(EXTREME))
def test_a_single_token_stays(name):
    assert reducers.keys() - EXTREME.keys() == {"vtw"}, "which withdraws it, too"
    attention, keys, hidden = tensors(1, 0)
    done = prefill(
        EXTREME[name],
        grid(1, 1, 1),
        LAYERS,
        attention=attention,
        keys=keys,
        hidden=hidden,
        text=text(),
    )
    assert done.held == [1] * LAYERS
    assert done.plans == []


@by_name
def test_no_token_at_all_is_left_as_it_is(name):
    reducer = {**EXTREME, "vas": Vas(drop_all_at_end=True), "vtw": Vtw()}[name]
    for view in views(([], [], 0), reducer):
        assert reducer.plan(view) is None
