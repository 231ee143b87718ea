"""Rates, and what a prefill would take at them."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import tokenreduce
from tokenreduce import ideal, measure
from tokenreduce.cost import DecoderShape
from tokenreduce.ideal import Rates, ideal_seconds, ideal_speedup, measure_rates, trace_speedup
from tokenreduce.testing.tiny import ragged, single, tiny_onevision

SHAPE = DecoderShape(
    layers=2, hidden=8, intermediate=16, heads=4, key_heads=2, head_dim=2, vocabulary=10
)
EXPERTS = DecoderShape(
    layers=2, hidden=8, intermediate=16, heads=4, key_heads=2, head_dim=2, vocabulary=10,
    experts=5, active_experts=2, expert_intermediate=6, shared_intermediate=4, dense_layers=(0,),
)  # fmt: skip
LAYER = 2 * (2 * 64 + 2 * 32 + 3 * 128)  # per token
HEAD = 2 * 8 * 10


def test_ideal_by_hand() -> None:
    # Matrix products at 1000 FLOPs per second; attention, causal half only, at 10.
    rates = Rates(1000, 10)
    full = (2 * 3 * LAYER + HEAD) / 1000 + 2 * (2 * 2 * 8 * 6) / 10
    reduced = (5 * LAYER + HEAD) / 1000 + (2 * 2 * 8 * (6 + 3)) / 10
    later = (5 * LAYER + HEAD) / 1000 + (2 * 2 * 8 * (6 + 3 * 7 + 3 + 2 * 4)) / 10
    assert ideal_seconds(SHAPE, [3, 3], rates) == pytest.approx(full)
    assert ideal_seconds(SHAPE, [3, 2], rates) == pytest.approx(reduced)
    assert ideal_seconds(SHAPE, [3, 2], rates, [7, 4]) == pytest.approx(later)
    assert ideal_speedup(SHAPE, [3, 3], [3, 2], rates) == pytest.approx(full / reduced)


def test_slow_attention_makes_the_ideal_speedup_quadratic() -> None:
    long = [4000, 4000]
    half = [2000, 2000]
    assert ideal_speedup(SHAPE, long, half, Rates(1e15, 1)) == pytest.approx(4, rel=1e-3)
    assert ideal_speedup(SHAPE, long, half, Rates(1, 1e15)) == pytest.approx(2, rel=1e-3)


def test_speedup_of_a_trace_is_that_of_its_layers() -> None:
    model = tiny_onevision()
    rates = Rates(3e6, 1e6)
    with torch.no_grad(), tokenreduce.reduce(model, "vcc") as run:
        model(**single(6), logits_to_keep=1)
    shape = DecoderShape.from_config(model.config.text_config)
    # Eight text tokens, one newline; the two layers before the reduction hold all 24.
    full, reduced = [33] * 6, [33, 33, 21, 21, 21, 21]
    assert trace_speedup(run.trace, rates) == pytest.approx(
        ideal_speedup(shape, full, reduced, rates)
    )


def test_speedup_of_a_ragged_batch_is_that_of_all_its_tokens() -> None:
    model = tiny_onevision()
    rates = Rates(3e6, 1e6)
    with torch.no_grad(), tokenreduce.reduce(model, "vcc") as run:
        model(**ragged(6), logits_to_keep=1)
    shape = DecoderShape.from_config(model.config.text_config)
    # One video of 24 tokens, two of them, none; vcc leaves half after the second layer.
    texts, videos = [7, 9, 4], [24, 48, 0]
    full = reduced = 0.0
    for text, video in zip(texts, videos, strict=True):
        full += ideal_seconds(shape, [text + video] * 6, rates)
        reduced += ideal_seconds(shape, [text + video] * 2 + [text + video // 2] * 4, rates)
    assert trace_speedup(run.trace, rates) == pytest.approx(full / reduced)


@pytest.mark.parametrize("shape", [SHAPE, EXPERTS])
def test_rates_are_flops_over_the_fastest_time(
    shape: DecoderShape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls that are timed do the FLOPs that they are said to."""
    seen: dict[str, int] = {}

    def timed(calls: Any, *, repeats: int, device: Any) -> dict[str, measure.Timing]:
        for name, call in calls.items():
            with FlopCounterMode(display=False) as counter:
                call()
            seen[name] = counter.get_total_flops()
        assert repeats == 3
        return {"products": measure.Timing((9, 4, 5)), "attention": measure.Timing((3, 8, 2))}

    monkeypatch.setattr(ideal, "time_to_first_token", timed)
    rates = measure_rates(shape, 11, torch.float32, repeats=3)
    assert rates.matmul_flops_per_second * 4 == pytest.approx(seen["products"])
    # 66 pairs of 11 tokens; torch's counter does not see the fused kernel on a CPU.
    assert rates.attention_flops_per_second * 2 == pytest.approx(2 * 2 * 8 * 66)


def test_rates_are_measured_in_the_dtype_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[torch.dtype]] = {}

    def noting(name: str) -> Any:
        real = getattr(functional, name)

        def note(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
            seen.setdefault(name, set()).update(tensor.dtype for tensor in tensors)
            return real(*tensors, **options)

        return note

    for name in ("linear", "scaled_dot_product_attention"):
        monkeypatch.setattr(functional, name, noting(name))
    measure_rates(SHAPE, 5, torch.bfloat16, repeats=1)
    both = {torch.bfloat16}
    assert seen == {"linear": both, "scaled_dot_product_attention": both}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rates_of_this_machine_are_positive_and_finite(dtype: torch.dtype) -> None:
    rates = measure_rates(EXPERTS, 16, dtype, repeats=2)
    assert 0 < rates.matmul_flops_per_second < 1e16
    assert 0 < rates.attention_flops_per_second < 1e16


def test_rates_by_a_clock_that_ticks_once_per_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real timing function: each run takes half a second."""
    ticks = count()
    real = measure.time_to_first_token

    def ticking(calls: Any, **options: Any) -> Any:
        return real(calls, clock=lambda: next(ticks) * 0.5, **options)

    monkeypatch.setattr(ideal, "time_to_first_token", ticking)
    rates = measure_rates(SHAPE, 3, torch.float32, repeats=2)
    assert rates.matmul_flops_per_second == pytest.approx(3 * LAYER / 0.5)
    assert rates.attention_flops_per_second == pytest.approx(2 * 2 * 8 * 6 / 0.5)


def test_what_is_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="matmul_flops_per_second=0: a rate is above 0"):
        Rates(0, 1)
    with pytest.raises(ValueError, match="attention_flops_per_second=nan"):
        Rates(1, float("nan"))
    with pytest.raises(ValueError, match="tokens=0"):
        measure_rates(SHAPE, 0, torch.float32)
