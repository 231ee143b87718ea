"""Gemma 3 and Mistral 3: counted by hand, compared with the model's own functions, and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import tokenreduce
from tests.adapters.families import gemma3, mistral3
from tests.adapters.family import padded
from tests.test_chat import tokenizer
from tokenreduce.errors import AdapterError
from tokenreduce.layout import Layout, Role
from tokenreduce.plugins import load_plugins
from tokenreduce_model_adapters.gemma3 import Gemma3
from tokenreduce_model_adapters.mistral3 import Mistral3

TEXT = (Role.TEXT, -1, -1, -1, -1)


def cells(layout: Layout, sample: int = 0) -> list[tuple[int, ...]]:
    names = ("role", "item", "frame", "row", "column")
    return list(zip(*(getattr(layout, name)[sample].tolist() for name in names), strict=True))


def grid(item: int, *places: tuple[int, int]) -> list[tuple[int, ...]]:
    return [(Role.GRID, item, 0, row, column) for row, column in places]


def separator(item: int) -> tuple[int, ...]:
    return (Role.SEPARATOR, item, -1, -1, -1)


def test_mistral3_rows_and_separators_by_hand():
    one, two = [10, 10, 10, 12, 10, 10, 10, 13], [10, 12, 10, 13]
    ids = torch.tensor([[1, *one, *two, 5, 6]])
    sizes = torch.tensor([[16, 24], [16, 8]])
    model = mistral3.tiny_mistral3()
    layout = Mistral3().layout(model, {"input_ids": ids, "image_sizes": sizes})
    assert cells(layout) == [
        TEXT,
        *grid(0, (0, 0), (0, 1), (0, 2)),
        separator(0),
        *grid(0, (1, 0), (1, 1), (1, 2)),
        separator(0),
        *grid(1, (0, 0)),
        separator(1),
        *grid(1, (1, 0)),
        separator(1),
        TEXT,
        TEXT,
    ]


def test_mistral3_separators_stay_and_are_not_counted():
    model, inputs = mistral3.tiny_mistral3(), mistral3.image()
    with torch.no_grad(), tokenreduce.reduce(model, "vtw", layer=0) as run:
        model(**inputs)
    ids = inputs["input_ids"][0].tolist()
    text = [position for position, token in enumerate(ids) if token != mistral3.IMAGE]
    assert run.trace.kept_positions()[-1] == [text]
    assert run.trace.visual_tokens == (6,)


@pytest.mark.parametrize(
    ("ids", "sizes"),
    [
        ([1, 10, 10, 12, 10, 10, 13], [[16, 24]]),  # rows of three
        ([1, 10, 10, 13], [[16, 16]]),  # a row is missing
        ([1, 10, 13, 10, 13], [[8, 8]]),  # an image too many
    ],
)
def test_mistral3_rows_that_do_not_fit_the_sizes(ids, sizes):
    inputs = {"input_ids": torch.tensor([[*ids, 5]]), "image_sizes": torch.tensor(sizes)}
    with pytest.raises(AdapterError, match="placeholder"):
        Mistral3().layout(mistral3.tiny_mistral3(), inputs)


def test_gemma3_by_hand():
    ids = torch.tensor([[1, *gemma3.picture(), 2, *gemma3.picture(), 3]])
    inputs = {"input_ids": ids, "pixel_values": torch.zeros(2, 3, 24, 24)}
    places = [(row, column) for row in range(3) for column in range(3)]
    assert cells(Gemma3().layout(gemma3.tiny_gemma3(), inputs)) == [
        TEXT, TEXT, *grid(0, *places), TEXT, TEXT, TEXT, *grid(1, *places), TEXT, TEXT
    ]  # fmt: skip


def test_gemma3_placeholders_without_pixels_are_refused():
    inputs = padded([[1, *gemma3.picture(), 2]])
    with pytest.raises(AdapterError, match="describe fewer images"):
        Gemma3().layout(gemma3.tiny_gemma3(), inputs)


def test_gemma3_blocks_are_the_models_own():
    from transformers.models.gemma3.modeling_gemma3 import get_block_sequence_ids_for_mask

    model, adapter = gemma3.tiny_gemma3(), Gemma3()
    types = (torch.rand(4, 40, generator=torch.Generator().manual_seed(0)) < 0.7).long()
    layout = Layout(*(torch.zeros(4, 40, dtype=torch.long) for _ in range(5)))
    ours = adapter.blocks(model, {"token_type_ids": types}, layout)
    assert torch.equal(ours, get_block_sequence_ids_for_mask(types))
    # In a later turn the types are those of the whole sequence.
    earlier = torch.cat([torch.ones(4, 7, dtype=torch.long), torch.zeros(4, 1).long(), types], 1)
    assert torch.equal(adapter.blocks(model, {"token_type_ids": earlier}, layout), ours)
    assert adapter.blocks(model, {}, layout) is None


@pytest.mark.parametrize(
    ("make", "prompt"),
    [(gemma3.tiny_gemma3, gemma3.ragged), (mistral3.tiny_mistral3, mistral3.ragged)],
)
def test_a_checkpoint_is_loaded_and_takes_no_video(make: Any, prompt: Any, tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    tokenizer(template=None).save_pretrained(tmp_path)
    found = load_plugins(entry_points=[]).registry.adapters
    adapter = found[model.config.model_type]()
    checkpoint = adapter.load(tmp_path, dtype="float32", device="cpu")
    with torch.no_grad():
        ours, theirs = checkpoint.model(**prompt()).logits, model(**prompt()).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert checkpoint.processor.decode(torch.tensor([4, 5])) == "what ?"
    frames = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    with pytest.raises(AdapterError, match="takes images, not a video of 2 frames"):
        checkpoint.processor.video_inputs(frames, "what ?")
