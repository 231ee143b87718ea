"""VILA1.5 as it was published: loading, features, order and prompts, against plain references."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.adapters.families import vila as family
from tests.adapters.matrix import NAMES, reducers
from tests.adapters.published_vila import EIGHT, FORTY, VICUNA, publish
from tests.adapters.reference_vila import internvit, projected, siglip
from tokenreduce.cli import app
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.inference import EncodedVideo, Loaded, answer, load_model
from tokenreduce.layout import Role
from tokenreduce.testing.clips import write_clip
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce.weights import rename
from tokenreduce_model_adapters.vila import (
    _INTERNVIT_PUBLISHED,
    _INTERNVIT_RULES,
    _SIGLIP_PUBLISHED,
    _SIGLIP_RULES,
    Vila,
)
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.spatial_average import SpatialAverage

Weights = dict[str, Tensor]
TOWERS = pytest.mark.parametrize("sizes", [EIGHT, FORTY], ids=["siglip", "internvit"])


def loaded(folder: Path, **options: Any) -> Loaded:
    return load_model(str(folder), {"vila": Vila}, dtype="float32", device="cpu", options=options)


def stored(folder: Path, part: str) -> Weights:
    files = sorted((folder / part).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def rewrite(folder: Path, name: str, tensor: Tensor | None) -> None:
    """Set or take away the tensor ``name``, in the file of ``folder`` that holds it or the last."""
    for file in sorted(folder.glob("*.safetensors")):
        weights = load_file(file)
        if name in weights:
            break
    weights.pop(name, None)
    if tensor is not None:
        weights[name] = tensor
    save_file(weights, file, metadata={"format": "pt"})


def set_config(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def frames_of(count: int, height: int = 30, width: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator).byte()


# --- features, step by step -----------------------------------------------------------------------


@TOWERS
def test_features_are_those_of_the_published_weights(tmp_path, sizes):
    model = loaded(publish(tmp_path, sizes)).model
    pixels = torch.randn(2, 3, 3, sizes.image, sizes.image)
    tower = siglip if sizes.tower == "siglip" else internvit
    vision, projector = stored(tmp_path, "vision_tower"), stored(tmp_path, "mm_projector")
    expected = [
        torch.cat([projected(projector, tower(vision, frame, sizes)) for frame in video])
        for video in pixels
    ]
    with torch.no_grad():
        features = model.get_video_features(pixels).pooler_output
    assert features.shape == (2, 3 * 9 if sizes.tower == "siglip" else 3 * 4, sizes.hidden)
    torch.testing.assert_close(features, torch.stack(expected), rtol=1e-4, atol=1e-4)


@TOWERS
def test_the_language_model_sees_words_and_frames_in_their_places(tmp_path, sizes):
    """Its logits are those of transformers' own Llama on embeddings that are spliced by hand."""
    from transformers import LlamaForCausalLM

    it = loaded(publish(tmp_path, sizes))
    inputs = it.inputs(frames_of(2), "What?")
    (features,) = inputs["mm_encoder_outputs"]["video"].pooler_output
    llama = LlamaForCausalLM.from_pretrained(tmp_path / "llm", dtype="float32").eval()
    embed, rows, unused = llama.get_input_embeddings(), [], iter(features)
    for token in inputs["input_ids"][0].tolist():
        visual = token == it.model.config.video_token_id
        rows.append(next(unused) if visual else embed(torch.tensor(token)))
    with torch.no_grad():
        expected = llama(inputs_embeds=torch.stack(rows)[None]).logits
        found = it.model(**inputs).logits
    assert next(unused, None) is None
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# --- the real geometry ----------------------------------------------------------------------------

REAL = {
    "8B": (replace(EIGHT, image=384, patch=14, depth=2, layers=2), 14, 1568),
    "40B": (replace(FORTY, image=448, patch=14, depth=2, layers=2), 16, 2048),
}


@pytest.mark.parametrize(("sizes", "side", "total"), REAL.values(), ids=REAL.keys())
def test_eight_frames_of_the_real_size(tmp_path, sizes, side, total):
    it = loaded(publish(tmp_path, sizes))
    processor = it.checkpoint.processor
    assert (processor.frames, processor.sampling) == (8, "before_last")
    inputs = processor.video_inputs(frames_of(8), "Who?")
    assert inputs["pixel_values_videos"].shape == (1, 8, 3, sizes.image, sizes.image)
    layout = it.adapter.layout(it.model, inputs)
    grid = layout.role[0] == int(Role.GRID)
    assert int(grid.sum()) == total == int((inputs["input_ids"] == sizes.vocabulary).sum())
    assert layout.item[0][grid].unique().tolist() == [0]
    frame, row, column = (x[0][grid].tolist() for x in (layout.frame, layout.row, layout.column))
    cells = side * side
    assert frame == [token // cells for token in range(total)]
    assert row == [token % cells % side for token in range(total)]
    assert column == [token % cells // side for token in range(total)]
    # A line break follows each of the eight runs, and nothing else stands between them.
    breaks = (grid[:-1] & ~grid[1:]).nonzero().flatten() + 1
    line_break = it.checkpoint.processor.tokenizer("\n")["input_ids"][-1]
    assert inputs["input_ids"][0][breaks].tolist() == [line_break] * 8
    assert breaks.diff().tolist() == [cells + 1] * 7
    with torch.no_grad():
        features = it.model.get_video_features(inputs["pixel_values_videos"]).pooler_output
    assert features.shape == (1, total, sizes.hidden)


def test_the_number_of_frames_is_the_checkpoints(tmp_path):
    set_config(publish(tmp_path) / "config.json", num_video_frames=6)
    assert loaded(tmp_path).checkpoint.processor.frames == 6


def test_a_prompt_that_is_too_long_is_refused(tmp_path):
    processor = loaded(publish(tmp_path, REAL["40B"][0])).checkpoint.processor
    processor.video_inputs(frames_of(15), "Who?")
    with pytest.raises(AdapterError, match=r"16 frames, and the model was trained for 4096"):
        processor.video_inputs(frames_of(16), "Who?")


def test_the_longest_prompt_is_as_long_as_the_folder_says(tmp_path):
    processor = loaded(publish(tmp_path)).checkpoint.processor
    length = processor.video_inputs(frames_of(2), "Who?")["input_ids"].shape[1]
    for longest in (length, length - 1):
        set_config(tmp_path / "llm/config.json", tokenizer_model_max_length=longest)
        processor = loaded(tmp_path).checkpoint.processor
        if longest == length:
            processor.video_inputs(frames_of(2), "Who?")
        else:
            with pytest.raises(AdapterError, match=f"is {length} tokens .* trained for {longest}"):
                processor.video_inputs(frames_of(2), "Who?")


# --- prompts --------------------------------------------------------------------------------------

HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
PROMPTS = {
    "llama_3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n" + HELPFUL + "<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\n<image>\nWho?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "llama_3_old": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        + HELPFUL
        + "<|end_of_text|><|start_header_id|>user<|end_header_id|>\n\n<image>\n<image>\nWho?"
        "<|end_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    ),
    "hermes_2": (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\n<image>\n"
        "Who?<|im_end|><|im_start|>assistant\n"
    ),
    "vicuna_v1": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. USER: <image>\n"
        "<image>\nWho? ASSISTANT:"
    ),
}
# Folder, what it holds, what is asked for, which template it is and where answers end.
CHOICES = [
    ("Llama-3-VILA1.5-8B", EIGHT, {}, "llama_3_old", "<|end_of_text|>"),
    ("Llama-3-VILA1.5-8B-Fix", EIGHT, {}, "llama_3", "<|eot_id|>"),
    ("models--E--VILA1.5-8B-Fix/snapshots/0a1b2c", EIGHT, {}, "llama_3", "<|eot_id|>"),
    ("models--E--VILA1.5-8B/snapshots/0a1b2c", EIGHT, {}, "llama_3_old", "<|end_of_text|>"),
    ("with-a-prefix", EIGHT, {}, "llama_3_old", "<|end_of_text|>"),
    ("Llama-3-VILA1.5-8B", EIGHT, {"template": "llama_3"}, "llama_3", "<|eot_id|>"),
    ("VILA1.5-40b", FORTY, {}, "hermes_2", "<|im_end|>"),
    ("VILA1.5-3b", replace(EIGHT, specials=VICUNA, begins=False), {}, "vicuna_v1", "</s>"),
]


@pytest.mark.parametrize(("name", "sizes", "options", "template", "stop"), CHOICES)
def test_the_prompt_is_the_checkpoints_own_to_the_byte(
    tmp_path, name, sizes, options, template, stop
):
    it = loaded(publish(tmp_path / name, sizes), **options)
    tokenizer = it.checkpoint.processor.tokenizer
    ids = it.checkpoint.processor.video_inputs(frames_of(2), "Who?")["input_ids"][0].tolist()
    visual = it.model.config.video_token_id
    runs = [token for i, token in enumerate(ids) if token != visual or ids[i - 1] != visual]
    pieces = ["<image>" if t == visual else tokenizer.decode([t]) for t in runs]
    # A tokenizer that begins every text does so before the template's own first token as well.
    twice = tokenizer.bos_token if sizes.begins else ""
    assert "".join(pieces) == twice + PROMPTS[template]
    assert tokenizer.convert_tokens_to_ids(stop) in it.model.generation_config.eos_token_id


def test_answers_are_cut_at_the_end_of_the_models_turn(tmp_path):
    it = loaded(publish(tmp_path))
    stop = it.checkpoint.processor.tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    with torch.no_grad():
        it.model.get_output_embeddings().weight.zero_()  # every token is as likely
        it.model.get_output_embeddings().weight[stop] = 1
        it.model.get_decoder().norm.weight.fill_(1)
        it.model.get_decoder().norm.register_forward_hook(lambda *args: args[2].abs())
    inputs = it.inputs(frames_of(2), "Who?")
    produced = it.model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert produced[0, inputs["input_ids"].shape[1] :].tolist() == [stop]
    assert it.decode(produced, inputs) == ""


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"template": "llama3"}, ConfigError, r"template='llama3': did you mean 'llama_3'"),
        ({"template": ["llama_3"]}, ConfigError, r"template=\['llama_3'\]: .*Known: llama_3,"),
        ({"template": "hermes_2"}, AdapterError, r"no '<\|im_end\|>'.*set another of llama_3"),
        ({"templates": "llama_3"}, ConfigError, r"no option 'templates': did you mean 'template'"),
    ],
)
def test_a_wrong_template_is_refused(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        loaded(publish(tmp_path), **options)


def test_the_placeholder_stays_out_of_questions(tmp_path):
    processor = loaded(publish(tmp_path)).checkpoint.processor
    with pytest.raises(AdapterError, match="'<image>' stands for the video"):
        processor.video_inputs(frames_of(2), "What is <image>?")


# --- frames ---------------------------------------------------------------------------------------

NORMS = {
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "internvit": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@TOWERS
def test_frames_are_squashed_to_a_square(tmp_path, sizes):
    processor = loaded(publish(tmp_path, sizes)).checkpoint.processor
    frames = frames_of(2, 60, 90)
    mean, std = (np.array(values, dtype=np.float32) for values in NORMS[sizes.tower])
    expected = []
    for frame in frames.numpy():
        image = Image.fromarray(frame).resize((sizes.image, sizes.image), Image.Resampling.BICUBIC)
        expected.append((np.asarray(image, dtype=np.float32) / 255 - mean) / std)
    found = processor.video_inputs(frames, "Who?")["pixel_values_videos"][0]
    # One grey level is 1/255 / 0.224: the two resize with other rounding.
    difference = (found.permute(0, 2, 3, 1) - torch.from_numpy(np.stack(expected))).abs()
    assert difference.max() <= 1.01 / 255 / std.min()
    assert difference.mean() < 0.05 / 255 / std.min()


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "part", "name"),
    [
        (EIGHT, "llm", "model.layers.0.mlp.up_proj.weight"),
        (EIGHT, "vision_tower", "vision_model.encoder.layers.2.mlp.fc1.bias"),
        (EIGHT, "mm_projector", "layers.4.bias"),
        (FORTY, "vision_tower", "encoder.layers.1.attn.qkv.weight"),
        (FORTY, "vision_tower", "encoder.layers.1.ls2"),
    ],
)
def test_a_missing_tensor_is_named(tmp_path, sizes, part, name):
    rewrite(publish(tmp_path, sizes) / part, name, None)
    with pytest.raises(AdapterError, match=f"lack 1 of .*'{re.escape(f'{part}/{name}')}'"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("sizes", "rules", "published"),
    [
        (EIGHT, _SIGLIP_RULES, _SIGLIP_PUBLISHED),
        (FORTY, _INTERNVIT_RULES, _INTERNVIT_PUBLISHED),
    ],
    ids=["siglip", "internvit"],
)
def test_messages_name_tensors_as_they_are_published(tmp_path, sizes, rules, published):
    """There and back again, for all of them; a fused matrix ends in its parts."""
    publish(tmp_path, sizes)
    parts = ("llm", "vision_tower", "mm_projector")
    names = {f"{part}/{name}" for part in parts for name in stored(tmp_path, part)}
    cut = {n.replace(".qkv.", f".{part}."): n for n in names for part in "qkv"}
    back = {name for ours in rename(cut, rules) for name in rename({ours: None}, published)}
    assert back == names


def test_an_unexpected_tensor_is_named_and_a_computed_one_is_passed_over(tmp_path):
    publish(tmp_path)
    rewrite(tmp_path / "llm", "model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4))
    loaded(tmp_path)
    rewrite(tmp_path / "vision_tower", "vision_model.x", torch.ones(4))
    with pytest.raises(AdapterError, match=r"hold 1 tensors .*'vision_tower/vision_model\.x'"):
        loaded(tmp_path)


def test_a_tensor_of_another_shape_is_named(tmp_path):
    rewrite(publish(tmp_path) / "mm_projector", "layers.2.weight", torch.ones(32, 63))
    with pytest.raises(AdapterError, match=r"'mm_projector/layers\.2\.weight' is \[32, 63\]"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("mm_projector/config.json", {"mm_projector_type": "mlp_downsample_3x3_fix"}, "3x3_fix"),
        ("vision_tower/config.json", {"model_type": "radio"}, "model_type is 'radio'"),
        ("config.json", {"s2": True}, "s2 is True"),
        ("config.json", {"image_aspect_ratio": "dynamic"}, "'dynamic' and VILA1.5 has 'resize'"),
        ("config.json", {"mm_vision_select_feature": "patch"}, "VILA1.5 has 'cls_patch'"),
    ],
)
def test_later_models_of_the_same_name_are_refused(tmp_path, file, values, message):
    set_config(publish(tmp_path) / file, **values)
    with pytest.raises(AdapterError, match=message):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("vision_tower/config.json", {"num_hidden_layers": "x"}, "describes no model: .*_layers'"),
        ("config.json", {"mm_vision_select_layer": "x"}, "vision_layer is 'x', and the tower has"),
        ("config.json", {"mm_vision_select_layer": 9}, "vision_layer is 9, and the tower has 3"),
        ("config.json", {"mm_vision_select_layer": -5}, "vision_layer is -5, and the tower has 3"),
    ],
)
def test_a_configuration_of_no_model_is_one_error(tmp_path, file, values, message):
    set_config(publish(tmp_path) / file, **values)
    with pytest.raises(AdapterError, match=message) as raised:
        Vila().load(tmp_path, dtype="float32", device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [("llm/config.json", "vocab_size"), ("vision_tower/config.json", "image_size")],
)
def test_a_missing_setting_is_named(tmp_path, file, name):
    whole = json.loads((publish(tmp_path) / file).read_text())
    (tmp_path / file).write_text(json.dumps({n: v for n, v in whole.items() if n != name}))
    with pytest.raises(AdapterError, match=f"{file}: has no '{name}'"):
        Vila().load(tmp_path, dtype="float32", device="cpu")


@pytest.mark.parametrize(
    "file", ["llm/config.json", "mm_projector/config.json", "vision_tower/model.safetensors"]
)
def test_a_missing_file_is_named(tmp_path, file):
    publish(tmp_path)
    (tmp_path / file).unlink()
    with pytest.raises(AdapterError, match=str(Path(file).parent)):
        loaded(tmp_path)


def test_plain_llava_of_the_same_model_type_is_not_claimed():
    assert not Vila.claims({"model_type": "llava_llama"})
    assert not Vila.claims({"model_type": "llava", "mm_projector_cfg": {}})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_type_is_the_callers_whatever_the_folders_say(tmp_path, dtype):
    model = Vila().load(publish(tmp_path), dtype=dtype, device="cpu").model
    assert {value.dtype for value in model.parameters()} == {getattr(torch, dtype)}


# --- under reduction ------------------------------------------------------------------------------


def test_a_loaded_checkpoint_is_asked_under_a_reducer(tmp_path):
    it = loaded(publish(tmp_path))
    clip = EncodedVideo(it, frames_of(3))
    full = answer(it, clip.inputs("Who?"), (), max_new_tokens=2)
    half = answer(it, clip.inputs("Where?"), [Random(layers=[0], ratios=[0.5])], max_new_tokens=2)
    assert full.trace.visual_tokens == half.trace.visual_tokens == (27,)
    assert half.trace.img_memory < full.trace.img_memory == 1


def test_a_short_clip_is_answered_from_the_command_line(tmp_path, monkeypatch, capsys):
    """Three frames of 2 x 2 tokens come after five black ones; half of all is dropped."""
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command sets some for libraries
    write_clip(tmp_path / "clip.mp4", 3)
    arguments = ["run", str(tmp_path / "clip.mp4"), "-q", "Who?", "--json", "--device", "cpu"]
    arguments += ["--model", str(publish(tmp_path / "VILA1.5-40b", FORTY))]
    arguments += ["--model-option", "template=hermes_2", "--reducer", "random"]
    arguments += ["--set", "layers=[0]", "--set", "ratios=[0.5]", "--max-new-tokens", "2"]
    with pytest.raises(SystemExit) as done:
        app(arguments, prog_name="tokenreduce")
    assert not done.value.code
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (document["adapter"], document["frames"]) == ("vila", 8)
    assert document["tokens_per_layer"] == [8 * 4, 8 * 2, 8 * 2]


@pytest.mark.parametrize("prompts", [family.video, family.ragged], ids=["one", "padded"])
@pytest.mark.parametrize("tower", ["siglip", "internvit"])
@pytest.mark.parametrize("name", NAMES)
def test_every_reducer_equals_the_oracle(name, tower, prompts):
    reducer, inputs = reducers(-1)[name], prompts(tower)
    run = check_against_oracle(family.tiny(tower), [reducer], inputs, new=8, adapter=Vila())
    assert (run.trace.img_memory < 1) == (name != "keep_all")


def test_beams_equal_the_oracle():
    check_against_oracle(
        family.tiny("siglip"), [FastV()], family.ragged("siglip"), new=8, adapter=Vila(),
        num_beams=3,
    )  # fmt: skip


def test_spatial_reducers_go_by_rows_and_columns_not_by_the_order_of_tokens():
    """Neighbours in a row are three tokens apart, where a frame is 3 x 3 column by column."""
    model, inputs = family.tiny("siglip"), family.video("siglip")
    run = check_against_oracle(model, [SpatialAverage(layers=[0])], inputs, new=1, adapter=Vila())
    pairs = {((0, f, r, 0), (0, f, r, 1)) for f in range(3) for r in range(3)}
    assert {tuple(cells) for cells in run.trace.events[0].merged} == pairs
