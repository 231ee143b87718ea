"""Published methods against their descriptions, read once more in plain Python loops."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import pytest
import torch

import tokenreduce_plugins.div_prune
from tokenreduce.testing.views import FakeView, grid, prefill
from tokenreduce_plugins.div_prune import DivPrune
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.frame_fusion import FrameFusion
from tokenreduce_plugins.pyramid_drop import PyramidDrop
from tokenreduce_plugins.sparse_vlm import SparseVLM
from tokenreduce_plugins.vtw import Vtw

SEEDS = range(15)
DEPTHS = (14, 28, 32, 60)


def half_up(value):
    return math.floor(value + Fraction(1, 2))


def share_left(total, ratio):
    return max(1, half_up(total * (1 - Fraction(str(ratio)))))


def best(scores, count):
    """Positions of the ``count`` highest scores; of equal ones the earlier."""
    return sorted(sorted(range(len(scores)), key=lambda j: (-scores[j], j))[:count])


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def video(rng, *, gaps=True):
    """Cells of one to three grids, in order, with gaps or full; more than one token."""
    cells = []
    for item in range(rng.randint(1, 3)):
        shape = rng.randint(1, 5), rng.randint(1, 3), rng.randint(1, 3)
        cells += [cell for cell in grid(*shape, item=item) if not gaps or rng.random() < 0.8]
    return cells if len(cells) > 1 else grid(2, 1, 1)


def features(rng, cells, *, ties):
    """One vector per token, often that of the cell a frame earlier.

    With ties, entries are 1 and -1 in four dimensions: every cosine is a multiple of a half, in
    float32 as in Python.
    """
    vectors, last = [], {}
    for item, _, row, column in cells:
        old = last.get((item, row, column))
        fresh = [rng.choice([-1.0, 1.0]) if ties else rng.gauss(0, 1) for _ in range(4)]
        if not ties and old is not None:
            fresh = [x + rng.choice([0.1, 1, 3]) * y for x, y in zip(old, fresh, strict=True)]
        vectors.append(old if ties and old is not None and rng.random() < 0.5 else fresh)
        last[item, row, column] = vectors[-1]
    return vectors


def kept(plan, tokens):
    return [j for j in range(tokens) if plan is None or plan.slot[j] >= 0]


def earlier_of(cells, j):
    """The last token before ``j`` in the same cell of the same video; None for the first."""
    item, _, row, column = cells[j]
    for i in range(j - 1, -1, -1):
        if (cells[i][0], *cells[i][2:]) == (item, row, column):
            return i
    return None


# PyramidDrop


@pytest.mark.parametrize("seed", SEEDS)
def test_pyramid_drop_ranks_each_stage_by_the_last_row_of_the_next_layer(seed):
    rng = random.Random(seed)
    cells = video(rng)
    ratios = [rng.choice([0.1, 0.3, 0.5, 0.9]) for _ in range(3)]
    maps = [[[rng.randint(0, 3) for _ in cells] for _ in range(2)] for _ in range(33)]

    def attention(rows, layer):
        assert rows == "last"
        return torch.tensor(maps[layer], dtype=torch.float32)

    done = prefill(PyramidDrop(ratios=ratios), cells, 32, attention=attention)
    left = list(range(len(cells)))
    for layer, ratio in zip((8, 16, 24), ratios, strict=True):  # the layer that would run next
        scores = [sum(head[j] for head in maps[layer]) for j in left]
        left = [left[place] for place in best(scores, share_left(len(left), ratio))]
    assert done.members == [[j] for j in left]


def test_pyramid_drop_halves_three_times():
    done = prefill(PyramidDrop(), grid(4, 12, 12), 32, attention=lambda *_: torch.ones(2, 576))
    assert done.held == [576] * 8 + [288] * 8 + [144] * 8 + [72] * 8


# SparseVLM


class TextView(FakeView):
    """A view whose text rows can be asked one by one: ``map`` is ``[heads][rows][tokens]``."""

    def __init__(self, cells, *, table, **given):
        super().__init__(cells, **given)
        self.table = table

    def attention(self, rows="text", back=0, heads="mean", layer="this"):
        assert (back, heads, layer) == (0, "each", "this")
        assert "text" in self._needs.attention
        return torch.tensor(self.table, dtype=torch.float32)[:, list(rows)].sum(1)


def raters_by_hand(visual, text):
    """Text rows whose share of the visual tokens' softmax is above the mean share."""
    shares = [0.0] * len(text)
    for v in visual:
        logits = [sum(a * b for a, b in zip(v, t, strict=True)) for t in text]
        weights = [math.exp(logit) for logit in logits]
        shares = [s + w / sum(weights) for s, w in zip(shares, weights, strict=True)]
    above = [r for r, share in enumerate(shares) if share > sum(shares) / len(shares) + 1e-9]
    return above or list(range(len(text)))


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_sparse_vlm_ranks_by_its_raters_in_the_heads_that_look(seed, ties):
    rng = random.Random(seed)
    cells = video(rng)
    total, words = len(cells), rng.randint(1, 6)
    visual = features(rng, cells, ties=ties)
    text = [[rng.choice([-1, 0, 1]) if ties else rng.gauss(0, 1) for _ in range(4)]] * words
    text = [[x if ties else x + rng.gauss(0, 1) for x in row] for row in text]
    if rng.random() < 0.7:
        text[-1] = [rng.randint(-2, 2) for _ in range(4)]
    reducer = SparseVLM()
    raters = raters_by_hand(visual, text)
    left = list(range(total))
    for layer, of_576 in ((2, 300), (6, 200), (15, 110)):
        table = [[[rng.randint(0, 3) for _ in left] for _ in range(words)] for _ in range(4)]
        view = TextView(
            [cells[j] for j in left],
            layer=layer,
            total=total,
            table=table,
            visual_embeddings=torch.tensor(visual),
            text_embeddings=torch.tensor(text, dtype=torch.float32),
            needs=reducer.needs(),
        )
        rated = [[sum(head[r][j] for r in raters) for j in range(len(left))] for head in table]
        looking = best([sum(head) for head in rated], 2)  # 14 of 32 are 1.75 of 4
        scores = [sum(rated[head][j] for head in looking) for j in range(len(left))]
        share = Fraction(str(of_576 / 576))  # the setting is a decimal number
        chosen = best(scores, max(1, half_up(total * share)))
        plan = reducer.plan(view)
        assert kept(plan, len(left)) == chosen
        assert plan is None or plan.note == f"{len(raters)} raters"
        left = [left[place] for place in chosen]


def sparse_prefill(reducer, tokens):
    return prefill(
        reducer,
        grid(1, 1, tokens),
        32,
        attention=lambda *_: torch.ones(2, tokens),
        hidden=lambda layer: torch.ones(tokens, 2),
        text=torch.ones(3, 2),
    )


def test_sparse_vlm_keeps_the_published_counts():
    done = sparse_prefill(SparseVLM(), 576)
    assert done.held == [576] * 3 + [300] * 4 + [200] * 9 + [110] * 16
    least = SparseVLM(shares=(66 / 576, 30 / 576, 17 / 576))
    assert sparse_prefill(least, 576).held == [576] * 3 + [66] * 4 + [30] * 9 + [17] * 16
    assert sparse_prefill(SparseVLM(scale=0.5), 576).held[::5] == [576, 150, 100, 100, 55, 55, 55]
    assert sparse_prefill(SparseVLM(scale=1.9), 576).held[:4] == [576, 576, 576, 570]
    assert sparse_prefill(SparseVLM(), 2).held[-1] == 1  # 110 / 576 of two tokens is none


# FrameFusion


def fuse_by_hand(cells, hidden, attention, num_layers, *, cost, threshold, least, first):
    """The published state machine, with its flags; returns members and tokens per layer."""
    left = [[j] for j in range(len(cells))]
    held, merging, pruning = [], True, True
    for layer in range(-1, num_layers):
        if layer >= 0:
            held.append(len(left))
        if layer < first or layer == num_layers - 1 or not pruning:
            continue
        spare = Fraction(str(cost)) * num_layers * len(cells) - sum(held)
        room = max(1, half_up(spare / (num_layers - 1 - layer)))
        surplus = len(left) - room
        if not merging:
            if surplus > 0:
                scores = [sum(head[each[0]] for head in attention[layer]) for each in left]
                left = [left[place] for place in best(scores, room)]
                pruning = False
            continue
        now = [cells[each[0]] for each in left]
        like = []
        for j, each in enumerate(left):
            i = earlier_of(now, j)
            vectors = hidden[layer]
            like.append(-2 if i is None else cosine(vectors[left[i][0]], vectors[each[0]]))
        chosen = [j for j in range(len(left)) if like[j] > threshold]
        if surplus <= 0:
            chosen, merging = [], False
        elif len(chosen) >= surplus:
            chosen, merging, pruning = best(like, surplus), False, False
        elif len(chosen) < Fraction(str(least)) * len(left):
            merging = False
        result, run = [], {}
        for j, each in enumerate(left):
            cell = (now[j][0], *now[j][2:])
            if j in chosen:
                run[cell].extend(each)
            else:
                run[cell] = list(each)
                result.append(run[cell])
        left = result
    return left, held


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_frame_fusion_is_the_published_state_machine(seed, ties):
    rng = random.Random(seed)
    cells = video(rng, gaps=rng.random() < 0.3)
    depth = rng.choice([4, 8])
    settings = {
        "cost": rng.choice([0.1, 0.3, 0.5, 0.8]),
        "threshold": rng.choice([0.6, 0.5, 0, 0.9]),
        "least_share": rng.choice([0.1, 0.02, 0.3]),
        "start_layer": rng.choice([-1, -1, 1]),
    }
    hidden = {layer: features(rng, cells, ties=ties) for layer in range(-1, depth)}
    maps = [[[rng.randint(0, 3) for _ in cells] for _ in range(2)] for _ in range(depth)]

    done = prefill(
        FrameFusion(**settings),
        cells,
        depth,
        attention=lambda rows, layer: torch.tensor(maps[layer], dtype=torch.float32),
        hidden=lambda layer: torch.tensor(hidden[layer]),
    )
    left, held = fuse_by_hand(
        cells,
        hidden,
        maps,
        depth,
        cost=settings["cost"],
        threshold=settings["threshold"],
        least=settings["least_share"],
        first=settings["start_layer"],
    )
    assert done.held == held
    assert [sorted(each) for each in done.members] == [sorted(each) for each in left]


def fused(cells, hidden, num_layers=32, **settings):
    tokens = len(cells)
    attention = torch.arange(tokens).float().expand(2, -1)
    return prefill(
        FrameFusion(**settings),
        cells,
        num_layers,
        attention=lambda *_: attention,
        hidden=lambda layer: hidden,
    )


def test_frame_fusion_merges_a_still_video_to_the_budget_at_once():
    done = fused(grid(16, 6, 6), torch.ones(576, 4))
    assert [(layer, plan.note) for layer, plan in done.plans] == [(-1, "merged to the budget")]
    assert done.img_memory == pytest.approx(0.3, abs=1 / 576)


def test_frame_fusion_prunes_a_changing_video_after_the_first_layer():
    hidden = torch.randn(576, 512, generator=torch.Generator().manual_seed(0))
    done = fused(grid(16, 6, 6), hidden)
    assert [(layer, plan.note) for layer, plan in done.plans] == [(0, "pruned")]
    assert done.held[:2] == [576, 160]  # (0.3 x 32 - 1) / 31 of 576
    assert done.img_memory == pytest.approx(0.3, abs=1 / 576)
    assert done.members == [[j] for j in range(416, 576)]  # the most attended


def test_frame_fusion_merges_on_while_there_is_something_to_merge_then_prunes():
    # Pairs of frames are alike; once merged, what is left is not.
    pairs = torch.eye(8).repeat_interleave(2, dim=0).repeat_interleave(4, dim=0)  # 16 frames of 4
    done = fused(grid(16, 2, 2), pairs)
    assert [(layer, plan.note) for layer, plan in done.plans] == [(-1, "merged"), (1, "pruned")]
    assert done.held[:3] == [32, 32, 18]  # (0.3 x 32 x 64 - 64) / 30 = 18.3
    assert done.img_memory == pytest.approx(0.3, abs=1 / 64)


def test_frame_fusion_leaves_what_is_within_its_cost():
    assert fused(grid(4, 2, 2), torch.ones(16, 4), cost=1).plans == []


# EVS


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_evs_keeps_the_first_frame_and_the_greatest_changes(seed, ties):
    rng = random.Random(seed)
    ratio = rng.choice([0, 0.1, 0.3, 0.5, 0.7, 0.9])
    cells = video(rng, gaps=False)
    vectors = features(rng, cells, ties=ties)
    expected = []
    for item in sorted({cell[0] for cell in cells}):
        own = [j for j, cell in enumerate(cells) if cell[0] == item]
        frame = sum(cells[j][1] == 0 for j in own)  # tokens of one frame
        count = max(frame, share_left(len(own), ratio))
        change = {j: 1 - cosine(vectors[j], vectors[j - frame]) for j in own[frame:]}
        rest = sorted(own[frame:], key=lambda j: (-round(change[j], 9), j))
        expected += sorted(own[:frame] + rest[: count - frame])
    reducer = Evs(ratio=ratio)
    view = FakeView(cells, layer=-1, hidden=torch.tensor(vectors), needs=reducer.needs())
    plan = reducer.plan(view)
    assert kept(plan, len(cells)) == expected
    assert (plan is None) == (len(expected) == len(cells))


@pytest.mark.parametrize("seed", SEEDS)
def test_evs_with_gaps_compares_with_the_last_token_of_the_cell(seed):
    rng = random.Random(seed)
    ratio = rng.choice([0.1, 0.5, 0.9])
    cells = video(rng)
    vectors = features(rng, cells, ties=True)
    expected = []
    for item in {cell[0] for cell in cells}:
        own = [j for j, cell in enumerate(cells) if cell[0] == item]
        old = {j: earlier_of(cells, j) for j in own}
        change = {
            j: 1 - cosine(vectors[j], vectors[i]) if i is not None else 9 for j, i in old.items()
        }
        count = max(sum(i is None for i in old.values()), share_left(len(own), ratio))
        expected += sorted(own, key=lambda j: (-change[j], j))[:count]
    view = FakeView(cells, layer=-1, hidden=torch.tensor(vectors))
    assert kept(Evs(ratio=ratio).plan(view), len(cells)) == sorted(expected)


# DivPrune


@pytest.mark.parametrize("chunk", [1, 7, 1 << 24])
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", SEEDS)
def test_div_prune_always_adds_the_farthest(seed, ties, chunk, monkeypatch):
    monkeypatch.setattr(tokenreduce_plugins.div_prune, "CELLS", chunk)
    rng = random.Random(seed)
    ratio = rng.choice([0.1, 0.5, 0.902])
    cells = video(rng)
    vectors = features(rng, cells, ties=ties)
    tokens = range(len(cells))
    apart = [[1 - cosine(vectors[i], vectors[j]) for j in tokens] for i in tokens]
    chosen = []
    for _ in range(share_left(len(cells), ratio)):
        others = chosen or tokens
        nearest = {i: min(apart[i][j] for j in others if j != i) for i in tokens if i not in chosen}
        farthest = max(nearest.values())
        chosen.append(min(i for i, value in nearest.items() if value >= farthest - 1e-6))
    view = FakeView(cells, layer=-1, hidden=torch.tensor(vectors))
    assert kept(DivPrune(ratio=ratio).plan(view), len(cells)) == sorted(chosen)


def test_div_prune_of_copies_keeps_one_of_each():
    hidden = torch.eye(5).repeat(4, 1)
    plan = DivPrune(ratio=0.75).plan(FakeView(grid(4, 1, 5), layer=-1, hidden=hidden))
    assert kept(plan, 20) == [0, 1, 2, 3, 4]


def test_div_prune_takes_rounding_for_a_tie():
    hidden = torch.eye(3)
    hidden[1, 0] = 2e-7  # so that the third is the farthest by less than float32 can tell
    plan = DivPrune(ratio=0.3).plan(FakeView(grid(3, 1, 1), layer=-1, hidden=hidden))
    assert kept(plan, 3) == [0, 1]


# VTW


def test_vtw_withdraws_everything_half_way():
    assert prefill(Vtw(), grid(2, 2, 2), 32).held == [8] * 16 + [0] * 16
    assert prefill(Vtw(layer=-1), grid(2, 2, 2), 4).held == [0] * 4


# Schedules


@pytest.mark.parametrize(
    ("reducer", "expected"),
    [
        (PyramidDrop(), [(3, 6, 9), (6, 13, 20), (7, 15, 23), (14, 29, 44)]),
        (SparseVLM(), [(0, 2, 6), (2, 5, 13), (2, 6, 15), (5, 12, 29)]),
        (FrameFusion(), [tuple(range(-1, depth - 1)) for depth in DEPTHS]),
        (Evs(), [(-1,)] * 4),
        (DivPrune(), [(-1,)] * 4),
        (Vtw(), [(6,), (13,), (15,), (29,)]),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_layers_on_models_of_different_depth(reducer, expected):
    assert [reducer.acts_after(depth) for depth in DEPTHS] == expected
