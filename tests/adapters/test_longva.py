"""LongVA's published layout, with the real geometry and narrow layers, step by step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import pre_tokenizers
from torch import Tensor

import tokenreduce
from tests.adapters.published import (
    Tensors,
    clip_features,
    write_json,
    write_shards,
)
from tokenreduce.adapter import Checkpoint
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.inference import load_model
from tokenreduce.layout import Role
from tokenreduce.plugins import load_plugins
from tokenreduce.weights import rename
from tokenreduce_model_adapters.longva import _PUBLISHED, _RULES, LongVa

WIDTH, HEADS, KEY_HEADS, LAYERS = 32, 4, 2, 2
VISION_WIDTH, VISION_LAYERS = 128, 3  # two heads
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = 256 + len(SPECIAL)
ROWS = TOKENS + 5
TOWER = "model.vision_tower.vision_tower.vision_model."
ADAPTERS = load_plugins(entry_points=[]).registry.adapters
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def tensors(rows: int = ROWS) -> Tensors:
    """Make what the checkpoint holds, under its names."""
    made = Tensors()
    keys = WIDTH // HEADS * KEY_HEADS
    made.decoder("model.", "lm_head", width=WIDTH, layers=LAYERS, rows=rows, keys=keys, bias=True)
    made.clip(TOWER, width=VISION_WIDTH, layers=VISION_LAYERS, side=24, patch=14)
    made.linear("model.mm_projector.0", WIDTH, VISION_WIDTH)
    made.linear("model.mm_projector.2", WIDTH, WIDTH)
    return made


LANGUAGE_MODEL = {
    "attention_dropout": 0.0,
    "bos_token_id": 256,
    "eos_token_id": 258,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 2 * WIDTH,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": KEY_HEADS,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_sliding_window": False,
}


def config(rows: int = ROWS) -> dict[str, Any]:
    """Return what ``config.json`` holds: Qwen2's settings beside those of the whole."""
    return {
        **LANGUAGE_MODEL,
        "_name_or_path": "Qwen2-7B-Instruct-224K",
        "architectures": ["LlavaQwenForCausalLM"],
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[336, 672], [672, 336]],
        "mm_hidden_size": 1024,
        "mm_patch_merge_type": "unires",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_spatial_pool_mode": "max",
        "mm_spatial_pool_stride": 4,
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "model_type": "llava_qwen",
        "tokenizer_model_max_length": 32768,
        "tokenizer_padding_side": "right",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.0.dev0",
        "use_mm_proj": True,
        "vocab_size": rows,
    }


def write(folder: Path, made: Mapping[str, Tensor], settings: dict[str, Any]) -> Path:
    write_shards(folder, made, 2)
    write_json(folder / "config.json", settings)
    write_json(
        folder / "generation_config.json",
        {
            "bos_token_id": 256,
            "do_sample": True,
            "eos_token_id": [258, 256],
            "pad_token_id": 256,
            "temperature": 0.7,
            "top_k": 20,
        },
    )
    write_vocabulary(folder)
    return folder


def write_vocabulary(folder: Path) -> None:
    """Write a Qwen2 tokenizer of 256 bytes and no merges, in its own files."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    write_json(folder / "vocab.json", {letter: number for number, letter in enumerate(letters)})
    (folder / "merges.txt").write_text("#version: 0.2\n")
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {
        str(number): {"content": token, "special": True, **flags}
        for number, token in enumerate(SPECIAL, 256)
    }
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": added,
            "bos_token": None,
            "chat_template": "{{ messages }}",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None,
        },
    )


@pytest.fixture(scope="module")
def made() -> dict[str, Tensor]:
    return tensors().named


@pytest.fixture(scope="module")
def folder(made: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("longva") / "longva-tiny", made, config())


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Checkpoint:
    return LongVa().load(folder, dtype="float32", device="cpu")


def frames(count: int, height: int = 60, width: int = 80) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def expected_features(made: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """Return 144 tokens for each frame ``[frames, 3, 336, 336]``, from the published tensors."""
    tower = {n.removeprefix(TOWER): t for n, t in made.items() if n.startswith(TOWER)}
    patches = clip_features(tower, pixels, heads=2)[:, 1:]
    weight, bias = made["model.mm_projector.0.weight"], made["model.mm_projector.0.bias"]
    patches = patches @ weight.T + bias
    patches = patches * 0.5 * (1 + torch.erf(patches / 2**0.5))
    weight, bias = made["model.mm_projector.2.weight"], made["model.mm_projector.2.bias"]
    grid = (patches @ weight.T + bias).reshape(len(pixels), 24, 24, -1)
    pooled = [
        grid[frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(0, 1))
        for frame in range(len(pixels))
        for row in range(12)
        for column in range(12)
    ]
    return torch.stack(pooled)


def test_32_frames_are_4608_tokens_pooled_step_by_step(made, loaded):
    inputs = loaded.processor.video_inputs(frames(32), "Why?")
    pixels = inputs["pixel_values_videos"]
    assert pixels.shape == (1, 32, 3, 336, 336)
    with torch.no_grad():
        features = loaded.model.get_video_features(pixels).pooler_output
    assert features.shape == (1, 4608, WIDTH)
    torch.testing.assert_close(features[0], expected_features(made, pixels[0]))
    assert (inputs["input_ids"] == TOKENS).sum() == 4608


def test_layout_is_one_run_row_by_row(loaded):
    inputs = loaded.processor.video_inputs(frames(32), "Why?")
    layout = LongVa().layout(loaded.model, inputs)
    grid = layout.role[0] == int(Role.GRID)
    cells = torch.stack([layout.frame[0], layout.row[0], layout.column[0]], dim=-1)[grid]
    assert len(cells) == 4608
    expected = {0: [0, 0, 0], 1: [0, 0, 1], 12: [0, 1, 0], 144: [1, 0, 0], 4607: [31, 11, 11]}
    assert {index: cells[index].tolist() for index in expected} == expected


def test_logits_are_those_of_a_qwen2_with_its_theta(made, loaded):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    inputs = loaded.processor.video_inputs(frames(8), "Why?")
    with torch.no_grad():
        logits = loaded.model(**inputs).logits
    plain = Qwen2ForCausalLM(Qwen2Config(**LANGUAGE_MODEL, vocab_size=ROWS)).eval()
    plain.load_state_dict(
        {n: t for n, t in made.items() if not n.startswith(("model.mm_", "model.vision_"))}
    )
    assert plain.config.rope_parameters["rope_theta"] == 1e9
    features = iter(expected_features(made, inputs["pixel_values_videos"][0]))
    table = made["model.embed_tokens.weight"]
    ids = inputs["input_ids"][0].tolist()
    embeds = [next(features) if each == TOKENS else table[each] for each in ids]
    with torch.no_grad():
        expected = plain(inputs_embeds=torch.stack(embeds)[None]).logits
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


def test_prompt_byte_for_byte(loaded):
    processor: Any = loaded.processor
    ids = processor.video_inputs(frames(2), "Why?")["input_ids"][0].tolist()
    start = ids.index(TOKENS)
    assert ids[start : start + 288] == [TOKENS] * 288
    text = processor.tokenizer.decode(ids[:start]) + "<image>"
    text += processor.tokenizer.decode(ids[start + 288 :])
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<image>\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    words = processor.tokenizer(" a cat<|im_end|>")["input_ids"]
    assert processor.decode(torch.tensor(words)) == "a cat"


def test_pixels_are_resized_by_the_short_edge_and_cropped_in_the_middle(loaded):
    rows, columns = np.mgrid[:360, :1000]
    smooth = np.stack([rows / 2, columns / 4, (rows + columns) / 6], axis=-1).astype(np.uint8)
    pixels = loaded.processor.video_inputs(torch.from_numpy(smooth)[None], "Why?")
    image = Image.fromarray(smooth).resize((933, 336), Image.Resampling.BICUBIC)
    left = (933 - 336) // 2
    expected = (np.asarray(image.crop((left, 0, left + 336, 336))) / 255 - MEAN) / STD
    found = pixels["pixel_values_videos"][0, 0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 2 / 255 / min(STD)


def test_rows_without_a_token_are_never_answered(made, tmp_path):
    loud = dict(made)
    loud["lm_head.weight"] = made["lm_head.weight"].clone()
    loud["lm_head.weight"][TOKENS:] *= 100
    model: Any = (
        LongVa().load(write(tmp_path / "loud", loud, config()), dtype="float32", device="cpu").model
    )
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        assert model(input_ids=ids).logits[0, -1].argmax() >= TOKENS
        tokens = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=8
        )
    assert tokens[0, 20:].max() < TOKENS


def test_an_embedding_as_long_as_the_tokenizer_leaves_the_placeholder_without_a_row(tmp_path):
    made = tensors(rows=TOKENS).named
    loaded = LongVa().load(
        write(tmp_path / "cut", made, config(TOKENS)), dtype="float32", device="cpu"
    )
    model: Any = loaded.model
    assert model.generation_config.suppress_tokens is None
    inputs = loaded.processor.video_inputs(frames(2), "Why?")
    with torch.no_grad():
        model.generate(**inputs, max_new_tokens=2, num_beams=2)
        features = expected_features(made, inputs["pixel_values_videos"][0])
        embeds = model._embedded(inputs["input_ids"], features[None])
    here = inputs["input_ids"][0] == TOKENS
    assert torch.equal(embeds[0, here], features)


def test_the_folder_is_claimed_and_generation_is_greedy(folder):
    found = load_model(str(folder), ADAPTERS, dtype="float32", device="cpu")
    assert (found.adapter.name, found.model.config.model_type) == ("longva", "longva")
    processor = found.checkpoint.processor
    assert (processor.frames, processor.sampling) == (32, "linspace")
    settings = found.model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == ([258, 256], 256)
    assert settings.temperature in (None, 1.0)
    with pytest.raises(ConfigError, match="no option 'style'"):
        load_model(
            str(folder), ADAPTERS, dtype="float32", device="cpu", options={"style": "mvbench"}
        )


def test_reduced_generation_through_the_public_functions(folder):
    found = tokenreduce.load(str(folder))
    inputs = found.inputs(frames(32), "Why?")
    with torch.no_grad(), tokenreduce.reduce(found.model, "fastv", ratio=0.5, layer=0) as run:
        found.model.generate(**inputs, max_new_tokens=2)
    assert run.trace.visual_tokens == (4608,)
    assert run.trace.img_memory == pytest.approx(0.75)  # all of one layer, half of the other


def test_others_of_the_same_type_are_not_claimed_and_are_named(made, tmp_path):
    other = {**config(), "mm_patch_merge_type": "spatial_unpad"}
    assert not LongVa.claims(other)
    assert not LongVa.claims({**config(), "model_type": "qwen2"})
    with pytest.raises(AdapterError, match="mm_patch_merge_type is 'spatial_unpad'"):
        LongVa().load(write(tmp_path / "other", made, other), dtype="float32", device="cpu")


WRONG = {
    "missing": (
        {"model.layers.1.mlp.up_proj.weight": None},
        r"lack 1 of the model's tensors, the first is 'model\.layers\.1\.mlp\.up_proj\.weight'",
    ),
    "newline": (
        {"model.image_newline": torch.zeros(WIDTH)},
        r"not have, the first is 'model\.image_newline'",
    ),
    "no tower": (
        {f"{TOWER}embeddings.patch_embedding.weight": None},
        rf"lack '{re.escape(TOWER)}embeddings\.patch_embedding\.weight'",
    ),
    "no bias of the tower": (
        {f"{TOWER}post_layernorm.bias": None},
        rf"lack 1 of .*'{re.escape(TOWER)}post_layernorm\.bias'",
    ),
    "half a projector": (
        {"model.mm_projector.2.bias": None},
        r"lack 1 of .*'model\.mm_projector\.2\.bias'",
    ),
    "another width": (
        {"model.mm_projector.0.weight": torch.zeros(WIDTH, 1024)},
        r"'model\.mm_projector\.0\.weight' is \[32, 1024\] in the weights and \[32, 128\] in",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit_are_named(made, tmp_path, change, message):
    changed = {n: t for n, t in (made | change).items() if t is not None}
    with pytest.raises(AdapterError, match=message):
        LongVa().load(write(tmp_path / "wrong", changed, config()), dtype="float32", device="cpu")


def test_messages_name_tensors_as_they_are_published(made):
    """There and back again, for all of them."""
    published = {name: name for name in made}
    assert rename(rename(published, _RULES), _PUBLISHED) == published
