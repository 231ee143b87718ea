"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: tokens counted by hand, prompts written by hand, hazards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.adapters.families import qwen2_5_vl, qwen2_vl, qwen3_vl
from tests.adapters.patched import BEGIN, END, IMAGE, SPECIAL, TEMPLATE, VIDEO, tokenizer
from tokenreduce.adapter import ModelAdapter
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.inference import EncodedVideo, load_model
from tokenreduce.layout import Role
from tokenreduce.patches import PatchPreprocessor
from tokenreduce.plugins import load_plugins
from tokenreduce.testing.adapter_checks import EverySecond
from tokenreduce.testing.oracle import attach
from tokenreduce_model_adapters.qwen2_5_vl import Qwen2_5_VL, Qwen2_5_VLProcessor
from tokenreduce_model_adapters.qwen2_vl import Qwen2VL, Qwen2VLProcessor
from tokenreduce_model_adapters.qwen3_vl import Qwen3VL, Qwen3VLProcessor

TEXT = (Role.TEXT, -1, -1, -1, -1)
IMAGE_GRID = torch.tensor([[1, 4, 6]])  # 2 x 3 tokens
VIDEO_GRID = torch.tensor([[2, 4, 4]])  # two groups of 2 x 2 tokens
SMALL = PatchPreprocessor(least=64, most=256, budget="frame", patch=4)
WHOLE = SMALL.model_copy(update={"budget": "clip", "most": 4096})

TWO = [pytest.param(Qwen2VL(), qwen2_vl.tiny_qwen2_vl, id="qwen2_vl")]
TWO += [pytest.param(Qwen2_5_VL(), qwen2_5_vl.tiny_qwen2_5_vl, id="qwen2_5_vl")]
EVERY = [*TWO, pytest.param(Qwen3VL(), qwen3_vl.tiny_qwen3_vl, id="qwen3_vl")]


def cells(adapter: ModelAdapter, model: Any, row: list[int], **grids: Any) -> list[Any]:
    ids = torch.tensor([row])
    layout = adapter.layout(model, {"input_ids": ids, "mm_token_type_ids": 0 * ids, **grids})
    names = ("role", "item", "frame", "row", "column")
    return list(zip(*(getattr(layout, name)[0].tolist() for name in names), strict=True))


def grid(item: int, frame: int, rows: int, columns: int) -> list[Any]:
    return [(Role.GRID, item, frame, r, c) for r in range(rows) for c in range(columns)]


@pytest.mark.parametrize(("adapter", "model"), EVERY)
def test_an_image_by_hand(adapter: ModelAdapter, model: Any) -> None:
    row = [1, BEGIN, *[IMAGE] * 6, END, 2]
    assert cells(adapter, model(), row, image_grid_thw=IMAGE_GRID) == [
        TEXT,
        TEXT,
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        (Role.GRID, 0, 0, 0, 2),
        (Role.GRID, 0, 0, 1, 0),
        (Role.GRID, 0, 0, 1, 1),
        (Role.GRID, 0, 0, 1, 2),
        TEXT,
        TEXT,
    ]


@pytest.mark.parametrize(("adapter", "model"), TWO)
def test_a_video_is_one_run_by_hand(adapter: ModelAdapter, model: Any) -> None:
    row = [1, BEGIN, *[VIDEO] * 8, END, 2]
    assert cells(adapter, model(), row, video_grid_thw=VIDEO_GRID) == [
        TEXT,
        TEXT,
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        (Role.GRID, 0, 0, 1, 0),
        (Role.GRID, 0, 0, 1, 1),
        (Role.GRID, 0, 1, 0, 0),
        (Role.GRID, 0, 1, 0, 1),
        (Role.GRID, 0, 1, 1, 0),
        (Role.GRID, 0, 1, 1, 1),
        TEXT,
        TEXT,
    ]


@pytest.mark.parametrize(("adapter", "model"), TWO)
def test_an_image_between_two_videos_by_hand(adapter: ModelAdapter, model: Any) -> None:
    row = [1, *[VIDEO] * 8, 2, *[IMAGE] * 6, *[VIDEO] * 2, 3]
    grids = {"image_grid_thw": IMAGE_GRID, "video_grid_thw": torch.tensor([[2, 4, 4], [1, 2, 4]])}
    assert cells(adapter, model(), row, **grids) == [
        TEXT,
        *grid(0, 0, 2, 2),
        *grid(0, 1, 2, 2),
        TEXT,
        *grid(1, 0, 2, 3),
        *grid(2, 0, 1, 2),
        TEXT,
    ]


def test_text_stands_between_the_groups_of_a_qwen3_video_by_hand() -> None:
    group = [17, 18, BEGIN, *[VIDEO] * 4, END]
    row = [1, BEGIN, *group, *group, END, *[IMAGE] * 6, 2]
    grids = {"image_grid_thw": IMAGE_GRID, "video_grid_thw": VIDEO_GRID}
    assert cells(Qwen3VL(), qwen3_vl.tiny_qwen3_vl(), row, **grids) == [
        *[TEXT] * 5,
        (Role.GRID, 0, 0, 0, 0),
        (Role.GRID, 0, 0, 0, 1),
        (Role.GRID, 0, 0, 1, 0),
        (Role.GRID, 0, 0, 1, 1),
        *[TEXT] * 4,
        (Role.GRID, 0, 1, 0, 0),
        (Role.GRID, 0, 1, 0, 1),
        (Role.GRID, 0, 1, 1, 0),
        (Role.GRID, 0, 1, 1, 1),
        *[TEXT] * 2,
        *grid(1, 0, 2, 3),
        TEXT,
    ]


@pytest.mark.parametrize(("adapter", "model"), EVERY)
def test_a_video_without_its_grid_is_refused(adapter: ModelAdapter, model: Any) -> None:
    with pytest.raises(AdapterError, match="describe fewer images or videos"):
        cells(adapter, model(), [1, *[VIDEO] * 8, 2])


def test_text_behind_a_long_video_has_smaller_positions_than_its_last_frames() -> None:
    """Eight groups of 2 x 2 tokens: times 1 to 8, the text behind is 3, 4, 5, and the answer 6."""
    model, seen = qwen2_vl.tiny_qwen2_vl(), []
    inputs = qwen2_vl.PROMPTS.prompt([[1, *[VIDEO] * 32, 2, 3, 4]], videos=[(8, 4, 4)])
    rotary = model.get_decoder().rotary_emb
    hook = rotary.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with attach(model, [EverySecond(layers=(0,))], Qwen2VL()):
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    hook.remove()
    prefill, decode = seen
    assert prefill[0, 0].tolist() == [0, *[1 + n // 4 for n in range(32)], 3, 4, 5]
    assert decode.flatten().tolist() == [6, 6, 6]


def test_times_of_qwen2_5_count_seconds() -> None:
    """Two times a second here: groups of 1.5 seconds are three apart."""
    model, seen = qwen2_5_vl.tiny_qwen2_5_vl(), []
    rotary = model.get_decoder().rotary_emb
    hook = rotary.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    with torch.no_grad(), attach(model, [EverySecond(layers=(0,))], Qwen2_5_VL()):
        model(**qwen2_5_vl.video())
    hook.remove()
    assert seen[0][0, 0, 3:15].tolist() == [3] * 4 + [6] * 4 + [9] * 4


def test_seconds_stay_exact_in_a_model_of_half_precision(tmp_path: Path) -> None:
    qwen2_5_vl.write_checkpoint(tmp_path)
    adapters = load_plugins().registry.adapters
    loaded = load_model(str(tmp_path), adapters, dtype="bfloat16", device="cpu")
    frames = torch.zeros(4, 16, 16, 3, dtype=torch.uint8)
    inputs = EncodedVideo(loaded, frames, [0.0, 0.3, 0.6, 0.9]).inputs("what")
    assert inputs["second_per_grid_ts"].tolist() == pytest.approx([0.6], abs=1e-7)


def test_no_reduction_before_the_last_deepstack_layer() -> None:
    model = qwen3_vl.tiny_qwen3_vl()
    assert Qwen3VL().first_layer(model) == 2
    with (
        pytest.raises(ConfigError, match=r"after layer 1, .* after layers 2 to 6 only"),
        attach(model, [EverySecond(layers=(1,))], Qwen3VL()),
    ):
        pass
    model.config.vision_config.deepstack_visual_indexes = []
    assert Qwen3VL().first_layer(model) == -1


def test_costs_of_a_mixture_count_the_experts_of_one_token() -> None:
    shape = Qwen3VL().decoder_shape(qwen3_vl.tiny_qwen3_vl_moe())
    assert (shape.experts, shape.active_experts, shape.expert_intermediate) == (4, 2, 16)
    assert Qwen3VL().decoder_shape(qwen3_vl.tiny_qwen3_vl()).experts == 0


FRAMES = torch.zeros(3, 16, 16, 3, dtype=torch.uint8)  # two groups of 2 x 2 tokens
BEFORE = "<|im_start|>user\n<|vision_start|>"
AFTER = "<|vision_end|>this<|im_end|>\n<|im_start|>assistant\n"
PADS = "<|video_pad|>" * 4


def prompt_of(inputs: dict[str, Any], made: Any) -> str:
    return "".join(made.convert_ids_to_tokens(inputs["input_ids"][0]))


def test_prompts_of_qwen2_and_qwen2_5_by_hand() -> None:
    made = tokenizer(SPECIAL, TEMPLATE)
    two = Qwen2VLProcessor(made, SMALL, VIDEO).video_inputs(FRAMES, "this")
    newer = Qwen2_5_VLProcessor(made, SMALL, VIDEO)
    slow, unknown = (newer.video_inputs(FRAMES, "this", t) for t in ([0.0, 1.0, 4.0], None))
    for inputs in (two, slow):
        assert prompt_of(inputs, made) == BEFORE + PADS * 2 + AFTER
        assert inputs["mm_token_type_ids"][0].tolist() == [0] * 4 + [2] * 8 + [0] * 7
        assert inputs["video_grid_thw"].tolist() == [[2, 4, 4]]
        assert inputs["pixel_values_videos"].shape == (32, 2 * 3 * 4 * 4)
    assert slow["second_per_grid_ts"].tolist() == [4.0]  # two frames, each 2 seconds
    assert unknown["second_per_grid_ts"].tolist() == [1.0]
    assert "second_per_grid_ts" not in two


def test_prompts_of_qwen3_by_hand() -> None:
    """A group's time is the mean of its frames'; the last frame is a group of its own."""
    made = tokenizer(SPECIAL, TEMPLATE)
    config = qwen3_vl.tiny_qwen3_vl().config
    inputs = Qwen3VLProcessor(made, WHOLE, config).video_inputs(FRAMES, "this", [0.0, 0.5, 1.44])
    first, second = (f"<{t} seconds><|vision_start|>{PADS}<|vision_end|>" for t in (0.2, 1.4))
    assert prompt_of(inputs, made) == BEFORE + first + second + AFTER
    assert int(inputs["mm_token_type_ids"].sum()) == 2 * 8


def test_frames_are_sampled_as_the_families_were_made_for() -> None:
    for processor in (Qwen2VLProcessor, Qwen2_5_VLProcessor, Qwen3VLProcessor):
        assert (processor.frames, processor.sampling) == (768, "fps:2")
