"""The estimate of how long the paper's evaluations take, against arithmetic by hand."""

from __future__ import annotations

import pytest

from benchmarks.paper_hours import (
    BENCHMARKS,
    SHAPES,
    decoder_flops,
    decoder_weights,
    hours,
    seconds,
    tower_flops,
    weights,
)

LLAMA = SHAPES["llama-7b"]
LLAMA_2_7B = 6_738_415_616  # parameters that Meta's model card comes to, with 32,000 words


def test_weights_are_those_of_the_published_model() -> None:
    norms, more_words = (2 * 32 + 1) * 4096, 2 * 64 * 4096
    assert decoder_weights(LLAMA.text) == LLAMA_2_7B - norms + more_words


def test_the_40b_has_34_and_6_billion_weights() -> None:
    # Yi-34B is published with 34.4 billion; InternViT-6B without its last three layers with 5.5.
    assert weights(SHAPES["yi-34b"]) == pytest.approx(34.4e9 + 5.5e9, rel=0.01)


def test_flops_of_a_prefill() -> None:
    tokens = 16 * 144 + 200
    layers = LLAMA_2_7B - 65 * 4096 - 2 * 32000 * 4096
    attention = 32 * 4 * 4096 * tokens * (tokens + 1) // 2
    head = 2 * 4096 * 32064
    assert decoder_flops(LLAMA) == 2 * layers * tokens + attention + head


def test_a_tower_costs_two_flops_for_a_weight_and_patch_and_its_attention() -> None:
    # CLIP-L at 336 pixels: 24 layers of 1024 and 4096 over 577 tokens, 16 frames.
    layer = 2 * 577 * 12 * 1024**2 + 4 * 577**2 * 1024
    embedding = 2 * 576 * 3 * 14 * 14 * 1024
    assert tower_flops(LLAMA) == 16 * (24 * layer + embedding)


def test_hours_are_questions_times_seconds() -> None:
    by_hand = (decoder_flops(LLAMA) + tower_flops(LLAMA)) / 125e12
    by_hand += 16 * decoder_weights(LLAMA.text) * 2 / 1.4e12
    assert seconds(LLAMA, 16) == pytest.approx(by_hand)
    row = next(line for line in hours() if line.startswith("| MSVD-QA"))
    assert row.split(" | ")[1:3] == ["13,157", f"{13157 * by_hand / 3600:.2f}"]
    assert len(list(hours())) == 2 + len(BENCHMARKS)
