"""The composed model: splicing, generation, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tokenreduce
from tests.adapters.clips import VIDEO, Clips, tiny
from tests.adapters.families import longva, pllava
from tests.adapters.family import FamilyCase, padded
from tokenreduce.errors import AdapterError
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.tome import ToMe

CLIPS = Clips(frames=4)
FAMILIES = pytest.mark.parametrize(
    "case", [*pllava.CASES, *longva.CASES], ids=lambda case: case.name
)
SETTINGS = {"max_new_tokens": 8, "do_sample": False}


def generated(model: Any, inputs: dict[str, Any], **settings: Any) -> list[list[int]]:
    prompt = inputs["input_ids"].shape[1]
    with torch.no_grad():
        tokens = model.generate(**inputs, **{**SETTINGS, **settings})
    return tokens[:, prompt:].tolist()


@FAMILIES
@pytest.mark.parametrize("beams", [1, 3])
def test_a_padded_batch_answers_as_its_rows_do(case: FamilyCase, beams: int) -> None:
    """One video, two videos, two that touch, text alone: each by itself and all together."""
    model, inputs = case.model(), CLIPS.ragged()
    together = generated(model, inputs, num_beams=beams)
    first = 0
    for row, answer in enumerate(together):
        keep = inputs["attention_mask"][row].bool()
        ids = inputs["input_ids"][row][keep][None]
        alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if videos := int((ids == VIDEO).sum()) // len(CLIPS.ids):
            alone["pixel_values_videos"] = inputs["pixel_values_videos"][first : first + videos]
            first += videos
        assert generated(model, alone, num_beams=beams) == [answer]
    assert first == 5


@FAMILIES
def test_the_tower_runs_once_for_a_generation(case: FamilyCase) -> None:
    model, inputs = case.model(), CLIPS.ragged()
    calls: list[int] = []
    model.vision_tower.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    expected = generated(model, inputs, num_beams=2)
    assert calls == [5 * 4]
    encoded = case.adapter.encode_video(model, inputs)
    calls.clear()
    assert generated(model, encoded, num_beams=2) == expected
    assert calls == []


@FAMILIES
def test_embeddings_may_be_given_instead_of_ids(case: FamilyCase) -> None:
    model, inputs = case.model(), CLIPS.video()
    with torch.no_grad():
        features = model.get_video_features(inputs["pixel_values_videos"]).pooler_output[0]
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        embeds[0, 2 : 2 + len(features)] = features
        ours = model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
        theirs = model(**inputs).logits
    assert torch.equal(ours, theirs)


@FAMILIES
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention_equals_the_oracle(case: FamilyCase, attention: str) -> None:
    model = case.model()
    model.set_attn_implementation(attention)
    assert model.get_decoder().config._attn_implementation == attention
    for reducer in (FastV(layer=1), ToMe(r=2)):
        check_against_oracle(model, [reducer], CLIPS.ragged(), new=8, adapter=case.adapter)


@FAMILIES
def test_beams_and_samples_equal_the_oracle(case: FamilyCase) -> None:
    for settings in ({"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}):
        model, inputs = case.model(), CLIPS.ragged()
        check_against_oracle(
            model, [FastV(layer=1)], inputs, new=8, adapter=case.adapter, **settings
        )


def test_more_or_fewer_placeholders_than_tokens_are_refused() -> None:
    model = pllava.model()
    pixels = CLIPS.video()["pixel_values_videos"]
    for count in (0, 15, 17, 32):
        ids = padded([[1, *[VIDEO] * count, 2]])
        with pytest.raises(AdapterError, match=f"hold {count} placeholders .* for 16 visual"):
            model(**ids, pixel_values_videos=pixels)


def test_a_placeholder_beyond_the_embedding_is_never_looked_up() -> None:
    """As with its own row: only features stand at its places."""
    inside = tiny("longva", {"model_type": "qwen2"}, "stride_pool")
    outside = tiny("longva", {"model_type": "qwen2"}, "stride_pool")
    outside.config.video_token_id = 1000
    inputs = CLIPS.ragged()
    ids = inputs["input_ids"].masked_fill(inputs["input_ids"] == VIDEO, 1000)
    assert generated(inside, inputs, num_beams=2) == generated(
        outside, {**inputs, "input_ids": ids}, num_beams=2
    )
    with torch.no_grad(), tokenreduce.reduce(outside, "fastv", layer=1) as run:
        outside.generate(**{**inputs, "input_ids": ids}, **SETTINGS)
    assert run.trace.visual_tokens == (16, 32, 32, 0)


def test_a_later_turn_with_another_video_equals_one_prompt() -> None:
    """The cache of the first turn is used; features go to the new placeholders only."""
    model = longva.model()
    both = CLIPS.video([[1, *CLIPS.ids, 2, 3, *CLIPS.ids, 4]], 2)
    with torch.no_grad():
        expected = model(**both).logits[:, -1]
        cut = 1 + 16 + 2
        first = model(
            input_ids=both["input_ids"][:, :cut],
            pixel_values_videos=both["pixel_values_videos"][:1],
            use_cache=True,
        )
        then = model(
            input_ids=both["input_ids"][:, cut:],
            pixel_values_videos=both["pixel_values_videos"][1:],
            past_key_values=first.past_key_values,
        ).logits[:, -1]
    torch.testing.assert_close(then, expected, atol=1e-5, rtol=1e-5)


def patches(frames: int, side: int) -> Tensor:
    """Return ``[1, frames, side, side, 1]``: frame * 100 + row * 10 + column."""
    frame, row, column = torch.meshgrid(
        torch.arange(frames), torch.arange(side), torch.arange(side), indexing="ij"
    )
    return (frame * 100 + row * 10 + column).float()[None, ..., None]


def identity(connector: Any) -> Any:
    connector.mapped = lambda tokens: tokens
    return connector


def test_stride_pooling_by_hand() -> None:
    connector = identity(longva.model().connector)
    pooled = connector(patches(2, 5))
    assert pooled.shape == (1, 2, 2, 2, 1)  # the fifth row and column are left out
    assert pooled[0, 1, :, :, 0].tolist() == [[105.5, 107.5], [125.5, 127.5]]
    assert connector.grid(2, 5) == (2, 2, 2)


def test_adaptive_pooling_by_hand() -> None:
    connector = identity(pllava.model().connector)  # four frames of 2 x 2
    pooled = connector(patches(8, 4))
    # Frames 0 and 1, rows 0 and 1, columns 0 and 1: 50 + 5 + 0.5.
    assert pooled[0, 0, 0].flatten().tolist() == [55.5, 57.5]
    assert pooled[0, 3, 1, 1].item() == 650 + 25 + 2.5
    # Three frames are repeated 4 // 3 + 1 = 2 times, and four of the six are kept.
    few = connector(patches(3, 2))
    assert few[0, :, 0, 0, 0].tolist() == [0, 0, 100, 100]
    # Two are repeated 4 // 2 + 1 = 3 times: 0, 0, 0, 1.
    assert connector(patches(2, 2))[0, :, 0, 0, 0].tolist() == [0, 0, 0, 100]
    assert connector.grid(3, 24) == (4, 2, 2)
