"""Flash attention's code path through a stand-in, and the memory that scoring takes."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import tokenreduce
from tokenreduce import Plan, Reducer, View
from tokenreduce.measure import peak_memory
from tokenreduce.reducer import Needs
from tokenreduce.testing.oracle import masked
from tokenreduce.testing.tiny import batch, ragged, single, tiny_onevision, video_ids
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.vas import Vas


def flash_stand_in(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Do what flash attention does, slowly: 2-D masks or none, causal to the lower right."""
    assert mask is None or mask.dim() == 2
    position_ids = kwargs.get("position_ids")
    if position_ids is not None and query.shape[2] > 1:
        # With gaps, transformers takes them for packed sequences.
        assert (position_ids.diff(dim=-1).clamp(min=0) <= 1).all()
    groups = query.shape[1] // key.shape[1]
    key, value = (t.repeat_interleave(groups, dim=1) for t in (key, value))
    count, total = query.shape[2], key.shape[2]
    visible = torch.ones(count, total, dtype=torch.bool).tril(total - count)[None, None]
    if mask is not None:
        visible = visible & mask[:, None, None, :].bool()
        visible = visible | torch.eye(count, total, dtype=torch.bool).roll(total - count, 1)
    scores = query @ key.transpose(2, 3) * kwargs["scaling"]
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), None


@pytest.fixture
def flash_model(monkeypatch: pytest.MonkeyPatch) -> Any:
    from transformers import AttentionInterface

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash_stand_in)
    model = tiny_onevision()
    # The real setter looks for the package and a GPU, which the stand-in does not need.
    model.config.text_config._attn_implementation_internal = "flash_attention_2"
    return model


@pytest.mark.parametrize("reducer", [FastV(), Vas(start_layer=1, end_layer=4, interval=2)])
@pytest.mark.parametrize("inputs", [single, ragged])
def test_flash_attention_path_equals_the_oracle(flash_model, inputs, reducer):
    batch = inputs()
    settings = {"max_new_tokens": 6, "do_sample": False, "return_dict_in_generate": True}
    with torch.no_grad(), tokenreduce.reduce(flash_model, reducer) as run:
        assert (
            flash_model.config.text_config._attn_implementation == "tokenreduce_flash_attention_2"
        )
        ours = flash_model.generate(**batch, **settings, output_logits=True)
    assert flash_model.config.text_config._attn_implementation == "flash_attention_2"
    plain = tiny_onevision()
    with torch.no_grad(), masked(plain, run.trace.kept_positions(), batch["input_ids"].shape[1]):
        expected = plain.generate(**batch, **settings, output_logits=True)
    assert torch.equal(ours.sequences, expected.sequences)
    for one, other in zip(ours.logits, expected.logits, strict=True):
        assert (one - other).abs().max() <= 1e-4


class Scorer(Reducer):
    """Asks for attention after the first layer and removes nothing, so that no memory is saved."""

    name = "scorer"
    rows: Literal["text", "last", "all"]

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (0,)

    def needs(self) -> Needs:
        return Needs(frozenset({self.rows}))

    def plan(self, view: View) -> Plan | None:
        assert view.attention(self.rows).isfinite().all()
        return None


@pytest.mark.parametrize("rows", ["text", "last", pytest.param("all", marks=pytest.mark.slow)])
def test_scoring_never_materialises_attention(rows):
    """Scoring may add a tenth of the prefill's peak at 16,384 visual tokens.

    A full map would take 4 GiB here, and the 400 text rows' maps at once 100 MiB, twice the peak.
    """
    frames = 16384 // 4
    model = tiny_onevision(layers=2, hidden=64)
    inputs = batch([[1, 2, *video_ids(frames), *[5] * 400]], 1, frames)
    encoded = {**inputs, "mm_encoder_outputs": {"video": features(frames, 64)}}
    del encoded["pixel_values_videos"]

    def bare() -> None:
        model(**encoded, logits_to_keep=1)

    def scored() -> None:
        with tokenreduce.reduce(model, Scorer(rows=rows)):
            model(**encoded, logits_to_keep=1)

    with torch.no_grad():
        without, with_scores = peak_memory(bare, "cpu"), peak_memory(scored, "cpu")
    assert with_scores <= 1.1 * without


def features(frames: int, hidden: int) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=torch.randn(1, frames * 4 + 1, hidden))
