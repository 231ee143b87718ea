"""PLLaVA's published layout, with the real geometry and narrow layers, step by step."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import tokenreduce
from tests.adapters.published import (
    Tensors,
    clip_features,
    write_json,
    write_shards,
    write_tokenizer,
)
from tokenreduce.adapter import Checkpoint
from tokenreduce.cli import app
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.inference import load_model
from tokenreduce.layout import Role
from tokenreduce.plugins import load_plugins
from tokenreduce.testing.clips import write_clip
from tokenreduce.weights import rename
from tokenreduce_model_adapters.pllava import _PUBLISHED, _RULES, Pllava, _bounded

WIDTH, HEADS, LAYERS, ROWS, RANK = 32, 4, 2, 320, 8
VISION_WIDTH, VISION_LAYERS = 64, 3
SPECIAL = ["<s>", "</s>", "<image>", "<pad>"]
IMAGE = 256 + SPECIAL.index("<image>")
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LM = "language_model.base_model.model."
ADAPTERS = load_plugins(entry_points=[]).registry.adapters


def tensors() -> Tensors:
    """Make what the checkpoint holds, under its names."""
    made = Tensors()
    sizes: dict[str, Any] = {"width": WIDTH, "layers": LAYERS, "rows": ROWS, "keys": WIDTH}
    made.decoder(f"{LM}model.", f"{LM}lm_head", bias=False, **sizes)
    for layer in range(LAYERS):
        for name in ("q_proj", "v_proj"):
            module = f"{LM}model.layers.{layer}.self_attn.{name}"
            made.named[f"{module}.base_layer.weight"] = made.named.pop(f"{module}.weight")
            made.add(f"{module}.lora_A.default.weight", RANK, WIDTH, scale=0.5)
            made.add(f"{module}.lora_B.default.weight", WIDTH, RANK, scale=0.5)
    made.clip(
        "vision_tower.vision_model.",
        width=VISION_WIDTH,
        layers=VISION_LAYERS,
        side=24,
        patch=14,
    )
    made.linear("multi_modal_projector.linear_1", WIDTH, VISION_WIDTH)
    made.linear("multi_modal_projector.linear_2", WIDTH, WIDTH)
    return made


def config() -> dict[str, Any]:
    """Return what ``config.json`` holds; the pooling that it names is not the one to use."""
    return {
        "_name_or_path": "llava-hf/llava-v1.6-vicuna-7b-hf",
        "architectures": ["PllavaForConditionalGeneration"],
        "model_type": "llava",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.37.1",
        "ignore_index": -100,
        "image_token_index": IMAGE,
        "pad_token_id": 259,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "pooling_method": "avg",
        "frame_shape": [24, 24],
        "num_frames": 4,
        "use_pooling": True,
        "pooling_shape": [16, 8, 8],
        "vocab_size": ROWS,
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5",
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-05,
            "torch_dtype": "bfloat16",
            "vocab_size": ROWS,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": VISION_WIDTH,
            "intermediate_size": 2 * VISION_WIDTH,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": 1,
            "image_size": 336,
            "patch_size": 14,
            "projection_dim": 768,
            "vocab_size": 32000,
        },
    }


def write(folder: Path, made: Mapping[str, Tensor], settings: dict[str, Any]) -> Path:
    write_shards(folder, made, 3)
    write_json(folder / "config.json", settings)
    write_json(
        folder / "generation_config.json",
        {"_from_model_config": True, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 259},
    )
    write_json(folder / "processor_config.json", {"processor_class": "PllavaProcessor"})
    write_json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": 336, "width": 336},
            "do_center_crop": True,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": list(MEAN),
            "image_std": list(STD),
            "image_processor_type": "CLIPImageProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"shortest_edge": 336},
        },
    )
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    write_tokenizer(folder, SPECIAL, first="<s>", **tokens)
    return folder


@pytest.fixture(scope="module")
def made() -> dict[str, Tensor]:
    return tensors().named


@pytest.fixture(scope="module")
def folder(made: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("pllava") / "pllava-tiny", made, config())


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Checkpoint:
    return Pllava().load(folder, dtype="float32", device="cpu")


def frames(count: int, height: int = 60, width: int = 80) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def expected_features(made: Mapping[str, Tensor], pixels: Tensor) -> Tensor:
    """Return the 2304 tokens of 16 frames ``[16, 3, 336, 336]``, from the published tensors."""
    tower = {n.removeprefix("vision_tower.vision_model."): t for n, t in made.items()}
    patches = clip_features(tower, pixels, heads=1)[:, 1:]
    for name in ("linear_1", "linear_2"):
        weight, bias = (made[f"multi_modal_projector.{name}.{part}"] for part in ("weight", "bias"))
        patches = patches @ weight.T + bias
        if name == "linear_1":
            patches = patches * 0.5 * (1 + torch.erf(patches / 2**0.5))
    grid = patches.reshape(len(pixels), 24, 24, -1)
    pooled = [
        grid[frame, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(dim=(0, 1))
        for frame in range(16)
        for row in range(12)
        for column in range(12)
    ]
    return torch.stack(pooled)


def expected_logits(made: Mapping[str, Tensor], embeds: Tensor, alpha: float) -> Tensor:
    """Run Llama with the updates as a path of their own: never merged."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**config()["text_config"])).eval()
    plain = {
        n.removeprefix(LM).replace(".base_layer.", "."): t
        for n, t in made.items()
        if n.startswith(LM) and ".lora_" not in n
    }
    model.load_state_dict(plain)
    for name, module in model.named_modules():
        if name.endswith(("q_proj", "v_proj")):
            a = made[f"{LM}{name}.lora_A.default.weight"]
            b = made[f"{LM}{name}.lora_B.default.weight"]

            def add(m: Any, args: Any, output: Tensor, a: Tensor = a, b: Tensor = b) -> Tensor:
                return output + (args[0] @ a.T @ b.T) * (alpha / RANK)

            module.register_forward_hook(add)
    with torch.no_grad():
        return model(inputs_embeds=embeds).logits


def spliced(made: Mapping[str, Tensor], ids: list[int], features: Tensor) -> Tensor:
    """Put features in place of the placeholders, one by one."""
    table, rest = made[f"{LM}model.embed_tokens.weight"], iter(features)
    return torch.stack([next(rest) if each == IMAGE else table[each] for each in ids])[None]


def test_features_are_pooled_step_by_step_to_2304_tokens(made, loaded):
    inputs = loaded.processor.video_inputs(frames(16), "Why?")
    pixels = inputs["pixel_values_videos"]
    assert pixels.shape == (1, 16, 3, 336, 336)
    with torch.no_grad():
        features = loaded.model.get_video_features(pixels).pooler_output
    assert features.shape == (1, 2304, WIDTH)
    torch.testing.assert_close(features[0], expected_features(made, pixels[0]))
    assert (inputs["input_ids"] == IMAGE).sum() == 2304


def test_layout_is_one_run_of_16_frames_row_by_row(loaded):
    inputs = loaded.processor.video_inputs(frames(16), "Why?")
    layout = Pllava().layout(loaded.model, inputs)
    grid = layout.role[0] == int(Role.GRID)
    assert grid.sum() == 2304
    cells = torch.stack([layout.frame[0], layout.row[0], layout.column[0]], dim=-1)[grid]
    assert cells[[0, 1, 11, 12, 143, 144, 2303]].tolist() == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 0, 11],
        [0, 1, 0],
        [0, 11, 11],
        [1, 0, 0],
        [15, 11, 11],
    ]


@pytest.mark.parametrize("alpha", [None, 32.0])
def test_logits_with_updates_merged(made, folder, alpha):
    options = {} if alpha is None else {"lora_alpha": alpha}
    loaded = Pllava().load(folder, dtype="float32", device="cpu", **options)
    inputs = loaded.processor.video_inputs(frames(16), "Why?")
    with torch.no_grad():
        logits = loaded.model(**inputs).logits
    features = expected_features(made, inputs["pixel_values_videos"][0])
    embeds = spliced(made, inputs["input_ids"][0].tolist(), features)
    expected = expected_logits(made, embeds, 4.0 if alpha is None else alpha)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    other = expected_logits(made, embeds, 14.0)
    assert (logits - other).abs().max() > 0.01


@pytest.mark.parametrize(
    ("count", "kept"),
    [
        (1, [0] * 16),
        (5, [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4),
        (8, [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3 + [5]),
        (12, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
    ],
)
def test_fewer_frames_are_repeated_and_cut(loaded, count, kept):
    pixels = loaded.processor.video_inputs(frames(count), "Why?")["pixel_values_videos"]
    assert pixels.shape[1] == count
    with torch.no_grad():
        few = loaded.model.get_video_features(pixels).pooler_output
        full = loaded.model.get_video_features(pixels[:, kept]).pooler_output
    torch.testing.assert_close(few, full)


def test_more_frames_than_the_model_takes_are_refused(loaded):
    with pytest.raises(AdapterError, match="17 frames are more than the 16"):
        loaded.processor.video_inputs(frames(17), "Why?")


VCG = (
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the video"
    " content that the user provides, and assist the user with a variety of tasks using natural"
    " language.Follow the instructions carefully and explain your answers in detail based on the"
    " provided video."
)
MVBENCH = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail"
    " and movement of objects, and the action and pose of persons. Based on your observations,"
    " select the best option that accurately addresses the question.\n"
)
PROMPTS = {
    None: f"{VCG} USER: <image>\n USER: Why? ASSISTANT:",
    "mvbench": f"{MVBENCH} USER: <image>\n USER: Why? \nOnly give the best option. "
    "ASSISTANT:Best option:(",
    "videoqabench": "USER: <image>\n The input consists of a sequence of key frames from a video. "
    "Answer the question concisely first and followed by significant events, characters, or "
    "objects that appear throughout the frames. Question: Why? \n ASSISTANT:\n"
    "Answer: In the video,",
}


@pytest.mark.parametrize(("style", "prompt"), PROMPTS.items())
def test_prompts_byte_for_byte(folder, style, prompt):
    options = {} if style is None else {"style": style}
    processor: Any = Pllava().load(folder, dtype="float32", device="cpu", **options).processor
    ids = processor.video_inputs(frames(2), "Why?")["input_ids"][0].tolist()
    start = ids.index(IMAGE)
    assert ids[start : start + 2304] == [IMAGE] * 2304
    ids[start : start + 2304] = [IMAGE]
    assert processor.tokenizer.decode(ids) == f"<s>{prompt}"
    words = processor.tokenizer("A) a cat", add_special_tokens=False)["input_ids"]
    assert processor.decode(torch.tensor(words)) == {"mvbench": "(A) a cat"}.get(style, "A) a cat")


def test_a_question_may_not_hold_the_placeholder(loaded):
    with pytest.raises(AdapterError, match="leave it out of the question"):
        loaded.processor.video_inputs(frames(2), "What is <image>?")


SIZES = [
    ((240, 320), (336, 448)),  # enlarged: the short edge is at least 336
    ((720, 1280), (360, 640)),  # the long edge is at most 640
    ((480, 640), (480, 640)),  # as it is
    ((1920, 1080), (640, 360)),
    ((100, 400), (336, 1344)),
    ((336, 336), (336, 336)),
]


@pytest.mark.parametrize(("before", "after"), SIZES)
def test_frames_are_first_bounded(before, after):
    assert _bounded(frames(1, *before), 336).shape == (1, *after, 3)


def test_a_frame_that_comes_out_one_pixel_short_is_cut():
    # 336 * (345 / 336) is 344.99999999999994 in double precision.
    assert _bounded(frames(1, 336, 345), 336).shape == (1, 336, 344, 3)
    assert _bounded(frames(1, 345, 336), 336).shape == (1, 344, 336, 3)


def test_pixels_are_resized_twice_and_cropped_in_the_middle(loaded):
    rows, columns = np.mgrid[:360, :1000]
    smooth = np.stack([rows / 2, columns / 4, (rows + columns) / 6], axis=-1).astype(np.uint8)
    pixels = loaded.processor.video_inputs(torch.from_numpy(smooth)[None], "Why?")
    # Long edge 1000 -> 640 makes the short edge 230, so 336 x 933; again 336; the middle 336.
    image = Image.fromarray(smooth).resize((933, 336), Image.Resampling.BICUBIC)
    left = (933 - 336) // 2
    expected = (np.asarray(image.crop((left, 0, left + 336, 336))) / 255 - MEAN) / STD
    found = pixels["pixel_values_videos"][0, 0].permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() < 2 / 255 / min(STD)


def test_the_folder_is_claimed_by_its_architecture(folder, loaded):
    found = load_model(str(folder), ADAPTERS, dtype="float32", device="cpu")
    assert (found.adapter.name, found.model.config.model_type) == ("pllava", "pllava")
    assert (found.checkpoint.processor.frames, found.checkpoint.processor.sampling) == (
        16,
        "segments",
    )
    assert not Pllava.claims({**config(), "architectures": ["LlavaForConditionalGeneration"]})
    ids = loaded.model.generation_config
    assert (ids.bos_token_id, ids.eos_token_id, ids.pad_token_id) == (256, 257, 259)


def test_options(folder):
    with pytest.raises(ConfigError, match=r"no option 'alpha'.*lora_alpha"):
        load_model(str(folder), ADAPTERS, dtype="float32", device="cpu", options={"alpha": 1})
    for style in ("mvbensch", ["mvbench"], {"mvbench": 1}):
        with pytest.raises(ConfigError, match=r"style=.*mvb.*: did you mean 'mvbench'.*Known: vcg"):
            Pllava().load(folder, dtype="float32", device="cpu", style=style)
    for wrong in ("four", None, True, [4], -1, math.nan, math.inf):
        options = {"lora_alpha": wrong}
        with pytest.raises(ConfigError, match=re.escape(f"lora_alpha={wrong!r} is no number")):
            load_model(str(folder), ADAPTERS, dtype="float32", device="cpu", options=options)


def test_reduced_generation_through_the_public_functions(folder):
    found = tokenreduce.load(str(folder))
    inputs = found.inputs(frames(16), "Why?")
    assert "pixel_values_videos" not in inputs
    with torch.no_grad(), tokenreduce.reduce(found.model, "fastv", ratio=0.5, layer=0) as run:
        found.model.generate(**inputs, max_new_tokens=2)
    assert run.trace.visual_tokens == (2304,)


def test_a_clip_is_answered_from_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command sets some for libraries
    write_clip(tmp_path / "clip.mp4", 40)
    arguments = ["run", str(tmp_path / "clip.mp4"), "-q", "Why?", "--json", "--device", "cpu"]
    arguments += ["--model", str(folder), "--model-option", "lora_alpha=8"]
    arguments += ["--model-option", "style=mvbench", "--reducer", "random"]
    arguments += ["--set", "layers=[0]", "--set", "ratios=[0.5]", "--max-new-tokens", "2"]
    with pytest.raises(SystemExit) as done:
        app(arguments, prog_name="tokenreduce")
    assert not done.value.code
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["adapter"], document["frames"]) == ("pllava", 16)
    assert document["tokens_per_layer"] == [2304, 1152]


def changed(
    folder: Path, tmp_path: Path, change: Any, settings: dict[str, Any] | None = None
) -> Path:
    made = {}
    for file in sorted(folder.glob("*.safetensors")):
        made |= load_file(file)
    change(made)
    return write(tmp_path / "changed", made, settings or config())


GONE = f"{LM}model.layers.1.mlp.up_proj.weight"
Q_PROJ = f"{LM}model.layers.0.self_attn.q_proj"
WRONG = {
    "missing": (
        lambda made: made.pop(GONE),
        rf"lack 1 of the model's tensors, the first is '{re.escape(GONE)}'",
    ),
    "misspelt": (
        lambda made: made.__setitem__("multi_modal_projector.linear_3.weight", torch.zeros(1)),
        r"1 tensors that the model does not .* is 'multi_modal_projector\.linear_3\.weight'",
    ),
    "another shape": (
        lambda made: made.__setitem__("multi_modal_projector.linear_2.bias", torch.zeros(5)),
        r"'multi_modal_projector\.linear_2\.bias' is \[5\] in the weights and \[32\] in the model",
    ),
    "half an update": (
        lambda made: made.pop(f"{Q_PROJ}.lora_B.default.weight"),
        rf"lack '{re.escape(Q_PROJ)}\.lora_B\.default\.weight'",
    ),
    "a whole update": (
        lambda made: [made.pop(n) for n in list(made) if n.startswith(Q_PROJ)],
        rf"lack 1 of .*'{re.escape(Q_PROJ)}\.base_layer\.weight'",
    ),
    "an update of another width": (
        lambda made: made.__setitem__(f"{Q_PROJ}.lora_A.default.weight", torch.zeros(RANK, 5)),
        rf"'{re.escape(Q_PROJ)}' is \[32, 32\], and its update is \[32, 8\] times \[8, 5\]",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit_are_named(folder, tmp_path, change, message):
    with pytest.raises(AdapterError, match=message):
        Pllava().load(changed(folder, tmp_path, change), dtype="float32", device="cpu")


def test_messages_name_tensors_as_they_are_published(made):
    """There and back again, for all of them; low-rank updates end in their matrix."""
    published = {name: name for name in made if ".lora_" not in name}
    ours = rename(published, _RULES)
    assert all(
        name.startswith(
            ("language_model.model.", "language_model.lm_head.", "vision_tower.", "connector.")
        )
        for name in ours
    )
    merged = {name.replace(".base_layer.", "."): name for name in ours}
    assert set(rename(merged, _PUBLISHED)) == set(published)


def test_what_is_computed_may_be_stored(folder, tmp_path):
    def add(made: dict[str, Tensor]) -> None:
        made[f"{LM}model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
        made["vision_tower.vision_model.embeddings.position_ids"] = torch.zeros(1, 577)

    Pllava().load(changed(folder, tmp_path, add), dtype="float32", device="cpu")


def test_a_missing_shard_is_named(folder, tmp_path):
    whole = changed(folder, tmp_path, lambda made: None)
    (whole / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"'model-00002-of-00003\.safetensors' is missing"):
        Pllava().load(whole, dtype="float32", device="cpu")


def test_a_configuration_of_something_else_is_named(folder, tmp_path):
    settings = {name: value for name, value in config().items() if name != "vision_config"}
    other = changed(folder, tmp_path, lambda made: None, settings)
    with pytest.raises(AdapterError, match="has no 'vision_config'"):
        Pllava().load(other, dtype="float32", device="cpu")


def test_half_precision_keeps_what_is_computed_in_full(folder):
    model: Any = Pllava().load(folder, dtype="bfloat16", device="cpu").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.get_decoder().rotary_emb.inv_freq.dtype == torch.float32
    stored = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = f"{LM}model.layers.0.self_attn.k_proj.weight"
    kept = load_file(folder / stored[name])[name]
    ours = model.language_model.model.layers[0].self_attn.k_proj.weight
    assert torch.equal(ours, kept.bfloat16())


def test_bin_files_are_read_as_well(made, folder, tmp_path):
    other = changed(folder, tmp_path, lambda made: None)
    for file in [*other.glob("*.safetensors"), other / "model.safetensors.index.json"]:
        file.unlink()
    torch.save(made, other / "pytorch_model.bin")
    model: Any = Pllava().load(other, dtype="float32", device="cpu").model
    assert torch.equal(
        model.connector.linear_1.weight, made["multi_modal_projector.linear_1.weight"]
    )
    (other / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(AdapterError, match="no weights can be read"):
        Pllava().load(other, dtype="float32", device="cpu")
    save_file({}, other / "model.safetensors")
    with pytest.raises(AdapterError, match="the weights lack"):
        Pllava().load(other, dtype="float32", device="cpu")
