"""Every reducer against a reference in plain Python loops, ties included."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from fractions import Fraction

import pytest
import torch
from torch.overrides import TorchFunctionMode

import tokenreduce_plugins.tome
from tokenreduce.testing.views import FakeView, grid
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.spatial_average import SpatialAverage
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.tome import ToMe
from tokenreduce_plugins.vas import Vas
from tokenreduce_plugins.vcc import Vcc

SEEDS = range(12)


def keep_by_hand(total, ratio):
    return max(1, math.floor(total * (1 - Fraction(str(ratio))) + Fraction(1, 2)))


def ragged(rng, *, items=3):
    """Cells of a few grids with gaps, in order; at least one token."""
    cells = []
    for item in range(rng.randint(1, items)):
        shape = [rng.randint(1, 5) for _ in range(3)]
        cells += [cell for cell in grid(*shape, item=item) if rng.random() < 0.8]
    return cells or grid(1, 1, 1)


def clusters(plan):
    """Members of every output token; a plan of None is not asked here."""
    members = defaultdict(list)
    for token, slot in enumerate(plan.slot.tolist()):
        if slot >= 0:
            members[slot].append(token)
    return [members[slot] for slot in sorted(members)]


def expect(plan, groups, tokens):
    """Compare a plan with groups of tokens, in whatever order these were found."""
    groups = sorted(groups)
    if groups == [[token] for token in range(tokens)]:
        assert plan is None
        return
    plan.validate(tokens, "test")
    assert clusters(plan) == groups


# FastV


@pytest.mark.parametrize("queries", ["last", "text", "all"])
@pytest.mark.parametrize("seed", SEEDS)
def test_fastv_keeps_the_most_attended_and_of_equals_the_earlier(seed, queries):
    rng = random.Random(seed)
    cells = ragged(rng)
    tokens = len(cells)
    ratio = rng.choice([0.1, 0.3, 0.5, 0.9])
    levels = {  # two heads, small integers: many ties
        rows: [[rng.randint(0, 3) for _ in range(tokens)] for _ in range(2)]
        for rows in ("last", "text", "all")
    }
    reducer = FastV(ratio=ratio, queries=queries)
    view = FakeView(
        cells,
        layer=1,
        attention=lambda rows, layer: torch.tensor(levels[rows], dtype=torch.float32),
        needs=reducer.needs(),
    )
    mean = [(a + b) / 2 for a, b in zip(*levels[queries], strict=True)]
    best = sorted(range(tokens), key=lambda j: (-mean[j], j))[: keep_by_hand(tokens, ratio)]
    expect(reducer.plan(view), [[j] for j in best], tokens)


# Random


def test_random_is_drawn_from_the_views_generator():
    reducer = Random(ratios=0.5)
    views = [
        FakeView(grid(4, 3, 3), layer=layer, seed=seed)
        for seed, layer in [(0, 11), (0, 11), (1, 11), (0, 19)]
    ]
    first, again, other_sample, other_layer = [clusters(reducer.plan(view)) for view in views]
    assert first == again
    assert first != other_sample
    assert first != other_layer
    assert len(first) == 18


def test_random_leaves_no_token_favoured():
    kept = [0] * 7
    for seed in range(700):
        plan = Random(layers=(3,), ratios=(0.5,)).plan(
            FakeView(grid(7, 1, 1), layer=3, num_layers=8, seed=seed)
        )
        for (token,) in clusters(plan):
            kept[token] += 1
    # 4 of 7 stay: 400 times each, standard deviation 13.
    assert all(340 < times < 460 for times in kept), kept


def test_random_takes_the_ratio_of_the_layer():
    reducer = Random(layers=(2, 4, 6), ratios=(0.1, 0.9, 0))
    kept = []
    for layer in (2, 4, 6):
        plan = reducer.plan(FakeView(grid(10, 1, 1), layer=layer, num_layers=8))
        kept.append(plan.kept if plan else 10)
    assert kept == [9, 1, 10]


# VCC


@pytest.mark.parametrize("within", ["sequence", "frames"])
@pytest.mark.parametrize("seed", SEEDS)
def test_vcc_cuts_windows_and_loses_nothing(seed, within):
    rng = random.Random(seed)
    cells = ragged(rng)
    stride = rng.randint(1, 5)
    runs = defaultdict(list)
    for token, (item, frame, _, _) in enumerate(cells):
        runs[item if within == "sequence" else (item, frame)].append(token)
    windows = [
        run[start : start + stride] for run in runs.values() for start in range(0, len(run), stride)
    ]
    plan = Vcc(stride=stride, within=within).plan(FakeView(cells, layer=1))
    expect(plan, windows, len(cells))


# The averages


def pairs(lines):
    return [line[start : start + 2] for line in lines for start in range(0, len(line), 2)]


@pytest.mark.parametrize("axis", ["auto", "columns", "rows"])
@pytest.mark.parametrize("seed", SEEDS)
def test_spatial_average_pairs_neighbours_of_a_frame(seed, axis):
    cells = ragged(random.Random(seed))
    lines = defaultdict(list)
    for token, (item, frame, row, column) in enumerate(cells):
        rows = {c[2] for c in cells if c[0] == item}
        columns = {c[3] for c in cells if c[0] == item}
        sideways = axis == "columns" or (axis == "auto" and len(columns) >= len(rows))
        lines[item, frame, "row" if sideways else "column", row if sideways else column].append(
            token
        )
    plan = SpatialAverage(axis=axis).plan(FakeView(cells, layer=11))
    expect(plan, pairs(lines.values()), len(cells))


@pytest.mark.parametrize("seed", SEEDS)
def test_temporal_average_pairs_frames_position_by_position(seed):
    cells = ragged(random.Random(seed))
    lines = defaultdict(list)
    for token, (item, _, row, column) in enumerate(cells):
        lines[item, row, column].append(token)
    plan = TemporalAverage().plan(FakeView(cells, layer=11))
    expect(plan, pairs(lines.values()), len(cells))


def test_averages_of_odd_sizes_leave_the_last_alone():
    assert TemporalAverage().plan(FakeView(grid(5, 1, 1))).slot.tolist() == [0, 0, 1, 1, 2]
    assert SpatialAverage().plan(FakeView(grid(1, 1, 5))).slot.tolist() == [0, 0, 1, 1, 2]
    assert SpatialAverage().plan(FakeView(grid(1, 3, 1))).slot.tolist() == [0, 0, 1]
    interleaved = TemporalAverage().plan(FakeView(grid(3, 1, 2)))
    assert interleaved.slot.tolist() == [0, 1, 0, 1, 2, 3]


def test_two_spatial_phases_make_squares():
    reducer = SpatialAverage()
    cells = grid(1, 4, 4)
    once = reducer.plan(FakeView(cells))
    left = [cells[each[0]] for each in clusters(once)]
    twice = reducer.plan(FakeView(left))
    squares = [
        sorted(cells[token] for pair in four for token in clusters(once)[pair])
        for four in clusters(twice)
    ]
    assert squares[0] == [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 0, 1, 1)]
    assert [len(each) for each in squares] == [4, 4, 4, 4]


def test_column_major_order_pairs_the_same_cells():
    cells = grid(2, 4, 4)
    by_column = sorted(cells, key=lambda cell: (cell[1], cell[3], cell[2]))
    found = []
    for order in (cells, by_column):
        plan = SpatialAverage(axis="columns").plan(FakeView(order))
        found.append({frozenset(order[token] for token in each) for each in clusters(plan)})
    assert found[0] == found[1]


# ToMe


def tome_by_hand(keys, items, amount):
    """Even tokens propose, best proposals merge; keys are lists of heads."""

    def mean(key):
        return [sum(head[d] for head in key) / len(key) for d in range(len(key[0]))]

    def cosine(a, b):
        length = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / length

    metric = [mean(key) for key in keys]
    proposals = []
    for a in range(0, len(keys), 2):
        partners = [b for b in range(1, len(keys), 2) if items[b] == items[a]]
        if partners:
            b = max(partners, key=lambda b: (cosine(metric[a], metric[b]), -b))
            proposals.append((-cosine(metric[a], metric[b]), a, b))
    groups = {token: [token] for token in range(len(keys))}
    for _, a, b in sorted(proposals)[:amount]:
        groups[b] = sorted(groups[b] + groups.pop(a))
    return list(groups.values())


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_tome_matches_even_with_odd(seed, ties):
    rng = random.Random(seed)
    cells = ragged(rng)
    tokens = len(cells)
    keys = []
    for _ in range(tokens):
        if ties:  # the mean of the heads is a multiple of a unit vector: cosines are 0 or 1
            shift = [rng.randint(-3, 3) for _ in range(3)]
            unit = [0, 0, 0]
            unit[rng.randrange(3)] = 2
            first = [2 * u + s for u, s in zip(unit, shift, strict=True)]
            keys.append([first, [-s for s in shift]])
        else:
            keys.append([[rng.gauss(0, 1) for _ in range(6)] for _ in range(2)])
    amount = rng.randint(1, tokens)
    reducer = ToMe(r=amount)
    view = FakeView(cells, layer=2, keys=torch.tensor(keys).float(), needs=reducer.needs())
    expected = tome_by_hand(keys, [cell[0] for cell in cells], min(amount, tokens // 2))
    expect(reducer.plan(view), expected, tokens)


def test_tome_leaves_a_token_alone_that_has_no_partner_in_its_image():
    cells = [
        (0, 0, 0, 0),
        (1, 0, 0, 0),
        (1, 0, 0, 1),
        (2, 0, 0, 0),
    ]  # only the middle two may merge
    plan = ToMe(r=2).plan(FakeView(cells, layer=0, keys=torch.ones(4, 1, 2)))
    assert plan.slot.tolist() == [0, 1, 1, 2]
    assert plan.scores.isfinite().all()
    assert ToMe(r=2).plan(FakeView(cells[::2], layer=0, keys=torch.ones(2, 1, 2))) is None


class LargestTensor(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor):
                self.numel = max(self.numel, each.numel())
        return out


def test_tome_never_holds_all_similarities(monkeypatch):
    keys = torch.randn(601, 2, 4, generator=torch.Generator().manual_seed(3))
    view = FakeView(grid(601, 1, 1), layer=2, keys=keys)
    whole = ToMe(r=150).plan(view)
    monkeypatch.setattr(tokenreduce_plugins.tome, "CELLS", 6000)
    with LargestTensor() as seen:
        chunked = ToMe(r=150).plan(view)
    assert seen.numel <= 6000 < 301 * 300
    assert torch.equal(whole.slot, chunked.slot)
    assert torch.equal(whole.scores, chunked.scores)


def test_tome_r_is_a_count_a_share_of_the_originals_or_a_list():
    keys = torch.randn(12, 1, 4, generator=torch.Generator().manual_seed(0))
    cells = grid(12, 1, 1)

    def left(r, layer=0):
        reducer = ToMe(r=r, end_layer=1)
        plan = reducer.plan(FakeView(cells, layer=layer, num_layers=4, keys=keys, total=40))
        return plan.kept if plan else 12

    assert left(3) == 9
    assert left(3.0) == 9
    assert left(0.1) == 8  # of 40 originals
    assert left(100) == 6  # at most half
    assert [left((5, 0.05), layer) for layer in (0, 1)] == [7, 10]
    assert left((0, 4)) == 12


# VAS


def vas_by_hand(reducer, cells, maps, since):
    """Return the tokens that stay, and the note; maps: attention now, one and two layers ago."""
    names = {"auto": ["frames", "positions"]}.get(reducer.axis, [reducer.axis])
    options = []
    for order, name in enumerate(names):
        groups = defaultdict(list)
        for token, (item, frame, row, column) in enumerate(cells):
            key = {
                "frames": (item, frame),
                "positions": (item, row, column),
                "tokens": (token,),
            }[name]
            groups[key].append(token)
        levels = []
        for each in maps:
            level = {key: sum(each[t] for t in who) / len(who) for key, who in groups.items()}
            total = sum(level.values())
            if reducer.levels == "relative":
                level = {key: value / total for key, value in level.items()}
            levels.append(level)
        falling = sum(levels[2][key] > levels[1][key] > levels[0][key] for key in groups)
        c0, c1, c2 = reducer.coefficients
        score = {k: c0 * levels[0][k] + c1 * levels[1][k] + c2 * levels[2][k] for k in groups}
        worst_first = sorted(groups, reverse=True)  # of equal ones the later goes first
        worst_first.sort(key=lambda key: score[key])
        if len({len(who) for who in groups.values()}) == 1:
            gone = worst_first[: len(groups) - keep_by_hand(len(groups), reducer.ratio)]
        else:
            quota = len(cells) - keep_by_hand(len(cells), reducer.ratio)
            gone = []
            for key in worst_first:
                quota -= len(groups[key])
                if quota < 0:
                    break
                gone.append(key)
        if gone:
            dead = {token for key in gone for token in groups[key]}
            stay = [token for token in range(len(cells)) if token not in dead]
            options.append((-Fraction(falling, len(groups)), order, name, stay))
    if not options:
        return None, ""
    share, _, name, stay = min(options)
    trigger = reducer.ratio if reducer.trigger_share is None else reducer.trigger_share
    if -share > Fraction(str(trigger)):
        return stay, f"triggered: {name}"
    return (stay, f"forced: {name}") if since >= reducer.interval else (None, "")


def check_vas(reducer, cells, maps, since, layer=9):
    tensors = {layer - back: torch.tensor([m, m]).double() for back, m in enumerate(maps)}
    view = FakeView(
        cells,
        layer=layer,
        since=since,
        attention=lambda rows, at: {"text": tensors[at]}[rows],
        needs=reducer.needs(),
    )
    stay, note = vas_by_hand(reducer, cells, maps, since)
    plan = reducer.plan(view)
    assert (plan.note if plan else "") == note
    expect(plan, [[t] for t in (range(len(cells)) if stay is None else stay)], len(cells))
    return note


@pytest.mark.parametrize("levels", ["relative", "absolute"])
@pytest.mark.parametrize("axis", ["auto", "frames", "positions", "tokens"])
def test_vas_on_full_grids_with_ties(axis, levels):
    notes = set()
    for seed in range(40):
        rng = random.Random(seed)
        # Powers of two keep every mean and total exact, so that ties are ties.
        cells = grid(rng.choice([1, 2, 4, 8]), rng.choice([1, 2, 4]), rng.choice([1, 2]))
        maps = [[rng.randint(0, 3) + 2 * back for _ in cells] for back in range(3)]
        maps[rng.randrange(3)][0] += 1  # never all zero
        reducer = Vas(
            axis=axis,
            levels=levels,
            ratio=rng.choice([0.1, 0.3, 0.5, 0.9]),
            trigger_share=rng.choice([None, 0, 0.25, 1]),
            coefficients=rng.choice([(1, -1, 1), (1, 0, 0), (1, 1, 1), (2, -1, 0)]),
        )
        notes.add(check_vas(reducer, cells, maps, since=rng.randint(1, 4)).partition(":")[0])
    assert notes == {"", "triggered", "forced"}


@pytest.mark.parametrize("levels", ["relative", "absolute"])
@pytest.mark.parametrize("axis", ["auto", "frames", "positions", "tokens"])
def test_vas_on_ragged_grids_of_several_videos(axis, levels):
    for seed in range(40):
        rng = random.Random(seed)
        cells = ragged(rng)
        maps = [[rng.random() + back / 2 for _ in cells] for back in range(3)]
        reducer = Vas(
            axis=axis, levels=levels, ratio=rng.choice([0.1, 0.3, 0.6]), trigger_share=0.2
        )
        check_vas(reducer, cells, maps, since=rng.randint(1, 4))


def test_vas_by_hand_on_four_frames():
    # Frame 2 falls twice (4 > 3 > 1), frame 0 rises, 1 and 3 do not move.
    cells = grid(4, 1, 2)
    now = [3, 3, 2, 2, 1, 1, 2, 2]
    before = [2, 2, 2, 2, 3, 3, 2, 2]
    first = [1, 1, 2, 2, 4, 4, 2, 2]
    maps = {7: first, 8: before, 9: now}

    def plan(since, **settings):
        view = FakeView(
            cells,
            layer=9,
            since=since,
            attention=lambda rows, layer: torch.tensor([maps[layer]]).float(),
        )
        return Vas(axis="frames", levels="absolute", **settings).plan(view)

    # scores T_k - T_{k-1} + T_{k-2}: 2, 2, 2, 2 -> the last goes
    assert plan(1, ratio=0.25) is None  # one of four is not more than a quarter
    assert plan(1, ratio=0.25, trigger_share=0.2).slot.tolist() == [0, 1, 2, 3, 4, 5, -1, -1]
    assert plan(3, ratio=0.25).note == "forced: frames"
    by_level = plan(3, ratio=0.25, coefficients=(1, 0, 0))
    assert by_level.slot.tolist() == [0, 1, 2, 3, -1, -1, 4, 5]
    assert by_level.scores.tolist() == now


def test_vas_auto_takes_the_axis_that_shrinks_more():
    # Both columns of positions fall in all frames but the first, which gains what they lose.
    cells = grid(4, 1, 2)
    falling_frames = {7: [1, 1, 5, 5, 5, 5, 5, 5], 8: [2, 2, 4, 4, 4, 4, 4, 4]}
    falling_frames[9] = [9, 9, 3, 3, 3, 3, 3, 3]
    falling_positions = {7: [1, 5] * 4, 8: [2, 4] * 4, 9: [9, 3] * 4}
    falling_positions[9][0] += 1
    for maps, axis in [(falling_frames, "frames"), (falling_positions, "positions")]:
        view = FakeView(
            cells,
            layer=9,
            since=3,
            attention=lambda rows, layer, maps=maps: torch.tensor([maps[layer]]).float(),
        )
        assert Vas(ratio=0.4).plan(view).note == f"triggered: {axis}"
        assert Vas(ratio=0.4, trigger_share=1).plan(view).note == f"forced: {axis}"
        assert Vas(ratio=0.4, trigger_share=1, interval=4).plan(view) is None


def test_vas_relative_levels_ignore_what_all_frames_share():
    cells = grid(4, 1, 1)
    fading = {7: [4, 8, 12, 16], 8: [2, 4, 6, 8], 9: [1, 2, 3, 4]}
    view = FakeView(
        cells, layer=9, since=1, attention=lambda rows, layer: torch.tensor([fading[layer]]).float()
    )
    assert Vas(axis="frames").plan(view) is None
    absolute = Vas(axis="frames", levels="absolute").plan(view)
    assert absolute.note == "triggered: frames"
    assert absolute.slot.tolist() == [-1, 0, 1, 2]


def test_vas_on_an_image_takes_positions_since_its_one_frame_must_stay():
    view = FakeView(grid(1, 2, 5), layer=9, since=9, attention=lambda *_: torch.arange(10.0)[None])
    assert Vas().plan(view).note == "forced: positions"
    assert Vas(axis="frames").plan(view) is None


@pytest.mark.parametrize("layer", [0, 1])
def test_vas_repeats_the_first_layer_where_history_is_short(layer):
    maps = {0: [4, 1, 3, 2], 1: [1, 2, 3, 4]}
    view = FakeView(
        grid(4, 1, 1),
        layer=layer,
        since=9,
        attention=lambda rows, at: torch.tensor([maps[at]]).float(),
    )
    plan = Vas(start_layer=0, ratio=0.5, axis="frames", levels="absolute", trigger_share=0).plan(
        view
    )
    assert plan.note == "forced: frames"
    assert plan.scores.tolist() == maps[layer]  # T - T' + T' = T


def test_vas_drops_everything_at_the_end_if_asked():
    view = FakeView(grid(4, 1, 1), layer=27, since=1, attention=lambda *_: torch.ones(1, 4))
    assert Vas().plan(view) is None
    plan = Vas(drop_all_at_end=True).plan(view)
    plan.validate(4, "vas")
    assert plan.slot.tolist() == [-1] * 4
    assert plan.kept == 0
    earlier = FakeView(grid(4, 1, 1), layer=26, since=1, attention=lambda *_: torch.ones(1, 4))
    assert Vas(drop_all_at_end=True).plan(earlier) is None
