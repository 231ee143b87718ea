"""Shared prefixes: answers, logits, traces and kept tokens are those of runs one by one."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tokenreduce import Plan, Reducer, View
from tokenreduce.course import Variant
from tokenreduce.errors import UnsupportedError
from tokenreduce.session import Session
from tokenreduce.sharing import Outcome, run_each
from tokenreduce.testing.tiny import ragged, single, tiny_onevision, video_ids
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision
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

ALL: list[list[Reducer]] = [
    [KeepAll()],
    [Vas(start_layer=1, end_layer=4, interval=2, ratio=0.4)],
    [Vas(start_layer=1, end_layer=4, interval=3, ratio=0.4)],
    [Vas(start_layer=1, end_layer=4, interval=2, axis="tokens")],
    [FastV()],
    [FastV(queries="text", ratio=0.75)],
    [FastV(queries="all", layer=0)],
    [Random(layers=[0, 2], ratios=[0.5, 0.3])],
    [Random(layers=[0, 3], ratios=[0.5, 0.3])],
    [Vcc(stride=3)],
    [ToMe(r=3)],
    [SpatialAverage(layers=[0, 2])],
    [TemporalAverage(layers=[1, 3])],
    [PyramidDrop(layers=[1, 3])],
    [SparseVLM(layers=[1, 2, 4])],
    [FrameFusion()],
    [Evs(ratio=0.5)],
    [DivPrune(ratio=0.5)],
    [Vtw(layer=2)],
    [Evs(ratio=0.5), FastV(layer=2)],
    [Evs(ratio=0.5), Vas(start_layer=1, end_layer=4, interval=2)],
]


def plain(trace: Any) -> dict[str, Any]:
    """A trace without what a clock says."""
    told = trace.model_dump()
    for event in told["events"]:
        del event["plan_seconds"], event["apply_seconds"]
    return told


def generator(model: Any, inputs: Any, new: int = 4, **more: Any) -> Any:
    def call() -> Any:
        return model.generate(
            **inputs,
            max_new_tokens=new,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
            **more,
        )

    return call


def one_by_one(model: Any, variants: list[Variant], call: Any, **options: Any) -> list[Any]:
    alone = []
    for reducers, seed in variants:
        session = Session(model, LlavaOnevision(), reducers, seed=seed, **options)
        with session.attached() as run:
            alone.append((call(), run.trace))
    return alone


def shared(model: Any, variants: list[Variant], call: Any, **options: Any) -> list[Any]:
    (reducers, seed), *others = variants
    session = Session(model, LlavaOnevision(), reducers, seed=seed, others=others, **options)
    return run_each(session, call)


def check_equal(model: Any, variants: list[Variant], call: Any, **options: Any) -> None:
    expected = one_by_one(model, variants, call, **options)
    for outcome, (output, trace) in zip(
        shared(model, variants, call, **options), expected, strict=True
    ):
        assert isinstance(outcome, Outcome), outcome
        assert outcome.result.sequences.tolist() == output.sequences.tolist()
        assert plain(outcome.trace) == plain(trace)
        for ours, theirs in zip(outcome.result.logits, output.logits, strict=True):
            assert torch.equal(ours, theirs)
    assert not any("forward" in layer.__dict__ for layer in model.get_decoder().layers)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_every_reducer_at_once_equals_one_by_one(inputs, attention):
    model = tiny_onevision(attention=attention)
    variants = [Variant(row, seed) for row in ALL for seed in (0, 1)]
    check_equal(model, variants, generator(model, inputs()))


@pytest.mark.parametrize("positions", ["renumber", "mean"])
def test_position_policies(positions):
    model = tiny_onevision()
    check_equal(
        model, [Variant(row) for row in ALL], generator(model, single()), positions=positions
    )


def test_beams():
    model = tiny_onevision()
    check_equal(model, [Variant(row) for row in ALL[:8]], generator(model, single(), num_beams=3))


def test_sliding_windows():
    model = tiny_onevision(backbone="mistral", sliding_window=9)
    check_equal(model, [Variant(row) for row in ALL], generator(model, single()))


LAYER = st.integers(0, 4)
SHARE = st.sampled_from([0.0, 0.1, 0.3, 0.5])
REDUCER = st.one_of(
    st.builds(FastV, layer=LAYER, ratio=SHARE, queries=st.sampled_from(["last", "text", "all"])),
    st.builds(
        Vas,
        start_layer=st.integers(0, 3),
        end_layer=st.just(4),
        interval=st.integers(1, 4),
        ratio=st.sampled_from([0.2, 0.4]),
        axis=st.sampled_from(["auto", "frames", "positions", "tokens"]),
    ),
    st.builds(lambda layer, share: Random(layers=[layer], ratios=share), LAYER, SHARE),
    st.builds(Vcc, layer=st.integers(-1, 4), stride=st.integers(1, 3)),
    st.builds(ToMe, r=st.integers(0, 4)),
    st.builds(PyramidDrop, layers=st.just((1, 3)), ratios=SHARE),
)
GRID = st.lists(
    st.builds(Variant, st.lists(REDUCER, min_size=1, max_size=2), st.integers(0, 1)),
    min_size=1,
    max_size=7,
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_onevision()


@settings(max_examples=15, deadline=None)
@given(grid=GRID)
def test_random_grids(model, grid):
    check_equal(model, grid, generator(model, single(4), new=3))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(grid=GRID, batch=st.booleans())
def test_many_random_grids(model, grid, batch):
    check_equal(model, grid, generator(model, ragged(4) if batch else single(4), new=3))


class Counter:
    """Counts the tokens that decoder layers really run over in prefills."""

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        for layer in model.get_decoder().layers:
            layer.mlp.register_forward_hook(self._count)

    def _count(self, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        if output.shape[1] > 1:
            self.tokens += output.shape[1]


def test_token_layers_are_those_of_the_tree():
    """Two ratios, two intervals, forced: a ratio's intervals part after the second reduction."""
    model = tiny_onevision(layers=12)
    frames = 20
    text = 7
    rows = [
        [Vas(ratio=ratio, interval=interval, start_layer=3, end_layer=9, trigger_share=1,
             axis="frames")]
        for ratio in (0.2, 0.5)
        for interval in (2, 3)
    ]  # fmt: skip
    ids = [1, 2, 3, *video_ids(frames), 5, 6, 7]
    inputs = {**single(frames), "input_ids": torch.tensor([ids]),
              "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}  # fmt: skip
    counter = Counter(model)
    shared(model, [Variant(row) for row in rows], generator(model, inputs, new=1))
    # Frames per layer, by hand; the layer after which a cell reduces still runs over all.
    kept = {0.2: [20, 16, 13, 10, 8], 0.5: [20, 10, 5, 3, 2]}
    per_cell = {
        (ratio, 2): [20] * 4 + [k[1]] * 2 + [k[2]] * 2 + [k[3]] * 2 + [k[4]] * 2
        for ratio, k in kept.items()
    } | {(ratio, 3): [20] * 4 + [k[1]] * 3 + [k[2]] * 3 + [k[3]] * 2 for ratio, k in kept.items()}
    trunk = sum(per_cell[0.2, 2][:4])
    first = sum(sum(per_cell[ratio, 2][4:6]) for ratio in kept)
    own = sum(sum(cell[6:]) for cell in per_cell.values())
    layers_run = 4 + 2 * 2 + 4 * 6
    assert counter.tokens == 4 * (trunk + first + own) + text * layers_run


class Breaks(Reducer):
    """Raises at its layer."""

    name: ClassVar[str] = "breaks"
    layer: int = 2

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def plan(self, view: View) -> Plan | None:
        raise ValueError("no luck")


def test_a_reducer_that_raises_fails_alone(model):
    variants = [Variant(row) for row in ([Breaks()], [FastV()], [KeepAll()], [Breaks(layer=0)])]
    call = generator(model, single())
    broken, fastv, kept, early = shared(model, variants, call)
    for error in (broken, early):
        assert isinstance(error, Exception)
        assert "'breaks' failed" in str(error)
        assert "no luck" in str(error)
    expected = one_by_one(model, variants[1:3], call)
    for outcome, (output, _) in zip((fastv, kept), expected, strict=True):
        assert outcome.result.sequences.tolist() == output.sequences.tolist()
    assert all(isinstance(e, Exception) for e in shared(model, [Variant([Breaks()])] * 2, call))


def test_an_interrupt_leaves_nothing_behind(model):
    calls = []

    def call() -> Any:
        calls.append(1)
        if len(calls) == 2:
            hook = model.get_decoder().layers[4].register_forward_pre_hook(interrupt)
            try:
                return generator(model, single())()
            finally:
                hook.remove()
        return generator(model, single())()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared(model, [Variant(row) for row in ALL[:5]], call)
    assert not any("forward" in layer.__dict__ for layer in model.get_decoder().layers)
    assert "generate" not in model.__dict__


def test_other_inputs_are_refused(model):
    calls = iter([single(4), single(6)])
    outcomes = shared(
        model,
        [Variant([KeepAll()]), Variant([FastV()])],
        lambda: generator(model, next(calls))(),
    )
    assert isinstance(outcomes[0], Outcome)
    assert isinstance(outcomes[1], UnsupportedError)
    assert "same inputs" in str(outcomes[1])
