"""The LLaVA families: checkpoints loaded, asked about clips and images, refused if incomplete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor

from tests.adapters.families import (
    llava,
    llava_next,
    llava_next_video,
    llava_onevision,
    video_llava,
    vipllava,
)
from tests.adapters.llavas import IMAGE, MEAN, STD, VIDEO
from tokenreduce.errors import AdapterError
from tokenreduce.inference import EncodedVideo, Loaded, answer, load_model
from tokenreduce.plugins import load_plugins
from tokenreduce.testing import write_clip
from tokenreduce.testing.adapter_checks import EverySecond
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce.video import load_video
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.vas import Vas

IMAGES = (llava, llava_next, vipllava)
VIDEOS = (llava_next_video, llava_onevision, video_llava)
TOKENS = {"llava_next_video": 4, "llava_onevision": 4, "video_llava": 17}  # of a frame
AFTER = {"llava_next_video": 0, "llava_onevision": 1, "video_llava": 0}  # all frames
FRAMES = 6


def name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


families = pytest.mark.parametrize("family", IMAGES + VIDEOS, ids=name)
image_families = pytest.mark.parametrize("family", IMAGES, ids=name)
video_families = pytest.mark.parametrize("family", VIDEOS, ids=name)


def load(directory: Path) -> Loaded:
    adapters = load_plugins(entry_points=[]).registry.adapters
    return load_model(str(directory), adapters, dtype="float32", device="cpu")


@pytest.fixture
def written(tmp_path: Path) -> Callable[[ModuleType], Path]:
    def write(family: ModuleType) -> Path:
        family.write_checkpoint(tmp_path)
        return tmp_path

    return write


@pytest.fixture
def clip(tmp_path: Path) -> Tensor:
    write_clip(tmp_path / "clip.mp4", frames=12)
    return load_video(tmp_path / "clip.mp4", FRAMES).frames


@families
def test_a_checkpoint_is_loaded_by_its_own_adapter(family: ModuleType, written: Any) -> None:
    loaded = load(written(family))
    assert loaded.adapter.name == name(family)
    expected = family.CASES[0].model().state_dict()
    found = loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@video_families
def test_a_clip_is_answered_with_and_without_a_reducer(
    family: ModuleType, written: Any, clip: Tensor
) -> None:
    loaded = load(written(family))
    loaded.model.generation_config.eos_token_id = None
    video = EncodedVideo(loaded, clip)
    inputs = video.inputs("What happens?")
    grid = TOKENS[name(family)] - (family is video_llava)  # a frame's cells
    for reducers in ([], [FastV(layer=1, ratio=0.5)], [Vas(start_layer=1, interval=1, ratio=0.3)]):
        found = answer(loaded, inputs, reducers, max_new_tokens=4)
        assert found.text
        assert found.trace.visual_tokens == (FRAMES * grid,)
        assert (found.trace.img_memory < 1) == bool(reducers)
    alone = loaded.model.generate(**video.inputs("What happens?"), max_new_tokens=4)
    assert loaded.decode(alone, inputs) == answer(loaded, inputs, [], max_new_tokens=4).text


@video_families
def test_the_prompt_by_hand(family: ModuleType, written: Any, clip: Tensor) -> None:
    """One first token, the template's words, and a placeholder for each visual token."""
    inputs = load(written(family)).checkpoint.processor.video_inputs(clip, "What happens?")
    count = FRAMES * TOKENS[name(family)] + AFTER[name(family)]
    words = {word: number for number, word in enumerate(("<unk>", "<s>", "</s>", "<pad>", "\n"))}
    words |= {"USER": 5, "ASSISTANT": 6, ":": 7, "What": 8, "happens": 9, "?": 10}
    before, after = ("<s>", "USER", ":"), ("\n", "What", "happens", "?", "ASSISTANT", ":")
    expected = [words[w] for w in before] + [VIDEO] * count + [words[w] for w in after]
    assert inputs["input_ids"].tolist() == [expected]
    assert inputs["attention_mask"].tolist() == [[1] * len(expected)]
    assert inputs["pixel_values_videos"].shape == (1, FRAMES, 3, 32, 32)


@video_families
def test_pixels_are_normalised_as_the_checkpoint_says(family: ModuleType, written: Any) -> None:
    """Grey frames of the tower's size stay as they are but for mean and deviation."""
    grey = torch.full((2, 32, 32, 3), 102, dtype=torch.uint8)
    inputs = load(written(family)).checkpoint.processor.video_inputs(grey, "What happens?")
    for channel, (mean, std) in enumerate(zip(MEAN, STD, strict=True)):
        values = inputs["pixel_values_videos"][0, :, channel]
        assert values.unique().tolist() == [pytest.approx((102 / 255 - mean) / std, abs=1e-5)]


@video_families
def test_the_tower_runs_once_for_all_questions(
    family: ModuleType, written: Any, clip: Tensor
) -> None:
    loaded = load(written(family))
    video = EncodedVideo(loaded, clip)
    inner = loaded.model.model
    tower = inner.video_tower if family is video_llava else inner.vision_tower
    runs: list[int] = []
    tower.register_forward_hook(lambda *_: runs.append(1))
    for question in ("What happens?", "What?"):
        inputs = video.inputs(question)
        assert "pixel_values_videos" not in inputs
        answer(loaded, inputs, [FastV(layer=1)], max_new_tokens=2)
    assert runs == [1]


@image_families
def test_families_without_video_say_so(family: ModuleType, written: Any, clip: Tensor) -> None:
    loaded = load(written(family))
    with pytest.raises(AdapterError, match="takes images, not a video of 6 frames"):
        loaded.inputs(clip, "What happens?")


@image_families
def test_inputs_of_transformers_own_processor_are_laid_out(
    family: ModuleType, written: Any
) -> None:
    """Of pictures of several shapes; the model itself counts placeholders as well."""
    directory = written(family)
    processor = AutoProcessor.from_pretrained(directory)
    sizes = [(20, 60), (32, 32), (100, 45), (7, 90)]  # width, height
    content = [{"type": "image"}] * len(sizes) + [{"type": "text", "text": "What happens?"}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    pictures = [Image.effect_noise(size, 100).convert("RGB") for size in sizes]
    inputs = dict(processor(text=[prompt], images=pictures, return_tensors="pt"))
    found = answer(load(directory), inputs, [FastV(layer=1, ratio=0.5)], max_new_tokens=2)
    assert len({cell[0] for cell in found.trace.events[0].kept}) == len(sizes)
    written_out = int((inputs["input_ids"] == IMAGE).sum())
    assert (found.trace.visual_tokens == (written_out,)) == (family is not llava_next)


@families
def test_beams_equal_the_oracle(family: ModuleType) -> None:
    (case,) = family.CASES
    inputs = case.prompts["ragged"]()
    layers = EverySecond(layers=(-1, 2))
    check_against_oracle(case.model(), [layers], inputs, new=3, adapter=case.adapter, num_beams=2)


@families
def test_images_are_answered_under_a_reducer_after_loading(
    family: ModuleType, written: Any
) -> None:
    loaded, inputs = load(written(family)), family.CASES[0].prompts["images"]()
    found = answer(loaded, inputs, [FastV(layer=1, ratio=0.5)], max_new_tokens=2)
    layout = loaded.adapter.layout(loaded.model, inputs)
    assert found.trace.visual_tokens == (int((layout.role == 1).sum()),)
    assert found.trace.img_memory < 1


@families
def test_a_missing_tensor_is_named(family: ModuleType, written: Any) -> None:
    file = written(family) / "model.safetensors"
    weights = load_file(file)
    gone = next(key for key in weights if "multi_modal_projector.linear_1.weight" in key)
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=r"lack 1 .* 'model.multi_modal_projector.linear_1.w"):
        load(file.parent)


@families
def test_a_missing_tokenizer_is_an_error(family: ModuleType, written: Any) -> None:
    directory = written(family)
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(AdapterError, match="no tokenizer can be loaded"):
        load(directory)


@families
def test_a_missing_template_is_an_error(family: ModuleType, written: Any) -> None:
    directory = written(family)
    (directory / "chat_template.jinja").unlink()
    with pytest.raises(AdapterError, match="there is no chat template"):
        load(directory)


@video_families
def test_missing_processor_settings_are_an_error(family: ModuleType, written: Any) -> None:
    directory = written(family)
    (directory / "processor_config.json").unlink()
    with pytest.raises(AdapterError, match="no frame preprocessor settings"):
        load(directory)


@video_families
def test_settings_of_earlier_checkpoints_are_found(
    family: ModuleType, written: Any, clip: Tensor
) -> None:
    """Settings in a file of their own, the template in one of the processor's."""
    directory = written(family)
    expected = load(directory).checkpoint.processor.video_inputs(clip, "What happens?")
    settings = json.loads((directory / "processor_config.json").read_text())
    (directory / "processor_config.json").write_text(json.dumps({"patch_size": 8}))
    old = directory / "preprocessor_config.json"
    old.write_text(json.dumps(settings["video_processor"]))
    template = (directory / "chat_template.jinja").read_text()
    (directory / "chat_template.jinja").unlink()
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    found = load(directory).checkpoint.processor.video_inputs(clip, "What happens?")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
