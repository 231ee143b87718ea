"""Families whose prompts write tiles and frames one by one: by hand, and loaded end to end."""

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

import tokenreduce
from tests.adapters import patched
from tests.adapters.families import idefics3, internvl, ovis2, perception_lm, smolvlm
from tests.adapters.family import padded
from tests.adapters.llavas import TEXT, cells
from tests.adapters.tiled import pixels, prompt
from tests.test_chat import tokenizer as words_only
from tokenreduce.adapter import ModelAdapter
from tokenreduce.errors import AdapterError
from tokenreduce.inference import EncodedVideo, Loaded, answer, load_model
from tokenreduce.layout import Layout, Role
from tokenreduce.plugins import load_plugins
from tokenreduce.testing import write_clip
from tokenreduce.testing.adapter_checks import EverySecond
from tokenreduce.testing.oracle import check_against_oracle
from tokenreduce.video import load_video
from tokenreduce_model_adapters.idefics3 import Idefics3
from tokenreduce_model_adapters.internvl import InternVL
from tokenreduce_model_adapters.ovis2 import Ovis2
from tokenreduce_model_adapters.perception_lm import PerceptionLM
from tokenreduce_model_adapters.smolvlm import SmolVLM, in_words
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.temporal_average import TemporalAverage
from tokenreduce_plugins.vas import Vas

VIDEOS = (internvl, smolvlm, perception_lm)
IMAGES = ((idefics3, idefics3.tiny_idefics3), (ovis2, ovis2.tiny_ovis2))
QUESTION = "what is this"
FRAMES = 6


def name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


families = pytest.mark.parametrize("family", [*VIDEOS, idefics3, ovis2], ids=name)
video_families = pytest.mark.parametrize("family", VIDEOS, ids=name)


def tile(item: int, frame: int = 0, row: int = 0, column: int = 0) -> list[tuple[int, ...]]:
    """Return the four tokens of a tile, whose first is in this row and column."""
    corner = [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)]
    return [(Role.GRID, item, frame, *place) for place in corner]


def separator(item: int) -> tuple[int, ...]:
    return (Role.SEPARATOR, item, -1, -1, -1)


def visual(layout: Layout, sample: int = 0) -> list[tuple[int, ...]]:
    """Return the grid tokens of a sample."""
    return [cell for cell in cells(layout, sample) if cell[0] == Role.GRID]


def laid_out(adapter: ModelAdapter, model: Any, made: Any, text: str) -> list[tuple[int, ...]]:
    inputs = {**prompt(made, text), "pixel_values": pixels(1, 1)}
    return visual(adapter.layout(model, inputs))


# --- InternVL


def internvl_cells(text: str) -> list[tuple[int, ...]]:
    return laid_out(InternVL(), internvl.tiny_internvl(), internvl.tokenizer(), text)


def test_internvl_image_of_three_tiles_and_one_of_one_by_hand() -> None:
    begin, end, cell = 122, 123, 120
    ids = [7, begin, *[cell] * 12, end, 8, begin, *[cell] * 4, end, 9]
    inputs = {**padded([ids]), "pixel_values": pixels(4)}
    layout = InternVL().layout(internvl.tiny_internvl(), inputs)
    expected = [TEXT, TEXT, *tile(0), *tile(1), *tile(2), *[TEXT] * 3, *tile(3), TEXT, TEXT]
    assert cells(layout) == expected


def test_internvl_video_between_images_by_hand() -> None:
    one, three = internvl.picture(), internvl.picture(3)
    found = internvl_cells(f"user\n{one}\n{internvl.clip(2)}\n{three}\n{one}\n")
    assert found == [
        *tile(0), *tile(1, 0), *tile(1, 1), *tile(2), *tile(3), *tile(4), *tile(5)
    ]  # fmt: skip


def test_internvl_second_video_begins_where_frames_are_counted_anew() -> None:
    found = internvl_cells(f"user\n{internvl.clip(2)}\n{internvl.clip(3)}\n")
    assert [cell[1:3] for cell in found[::4]] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]


def test_internvl_frames_are_counted_past_nine_and_ninety_nine() -> None:
    found = internvl_cells(f"user\n{internvl.clip(101)}\nwhat")
    assert [cell[1:3] for cell in found[::4]] == [(0, frame) for frame in range(101)]


@pytest.mark.parametrize("between", ["\n", " and ", "\nwhat is this\n", "", "\n\n"])
def test_internvl_pictures_without_counted_captions_are_images(between: str) -> None:
    found = internvl_cells("user\n" + between.join([internvl.picture()] * 3))
    assert [cell[1:3] for cell in found[::4]] == [(0, 0), (1, 0), (2, 0)]


def test_internvl_images_with_counted_captions_are_taken_for_a_video() -> None:
    """A hazard that the page tells: token ids alone do not tell them from frames."""
    captions = (f"Image {n}: {internvl.picture()}" for n in (1, 2))
    assert [cell[1] for cell in internvl_cells("user\n" + "\n".join(captions))] == [0] * 8


def test_internvl_run_of_half_a_tile_is_refused() -> None:
    with pytest.raises(AdapterError, match="a run of 6 placeholders is no whole number of tiles"):
        internvl_cells("<img>" + "<IMG_CONTEXT>" * 6 + "</img>")


# --- SmolVLM and Idefics3


def bracketed(text: str, adapter: ModelAdapter | None = None) -> list[tuple[int, ...]]:
    return laid_out(adapter or SmolVLM(), smolvlm.tiny_smolvlm(), idefics3.tokenizer(), text)


@pytest.mark.parametrize("adapter", [Idefics3(), SmolVLM()])
@pytest.mark.parametrize("marker", [(20,), (20, 21, 22, 23)])
def test_tiles_are_one_grid_and_the_view_is_another_frame_by_hand(
    adapter: ModelAdapter, marker: tuple[int, ...]
) -> None:
    """To some tokenizers a marker such as <row_1_col_1> is one token, to others several."""
    out, one, line = 122, [120] * 4, 11
    mark = [out, *marker]
    rows = [*mark, *one, *mark, *one, line] * 2
    ids = [7, *rows, line, *mark, *one, out, *mark, *one, out, 8]
    inputs = {**padded([ids]), "pixel_values": pixels(1, 6)}
    layout = adapter.layout(idefics3.tiny("SmolVLM"), inputs)
    between = [TEXT] * len(mark)
    assert cells(layout) == [
        TEXT, *between, *tile(0), *between, *tile(0, column=2),
        TEXT, *between, *tile(0, row=2), *between, *tile(0, row=2, column=2),
        TEXT, TEXT, *between, *tile(0, frame=1), TEXT, *between, *tile(1), TEXT, TEXT,
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (3, 1), (2, 3)])
def test_rows_and_columns_of_tiles(rows: int, columns: int) -> None:
    found = bracketed("User:" + idefics3.picture(rows, columns) + "what")
    expected = [tile(0, 0, 2 * r, 2 * c) for r in range(rows) for c in range(columns)]
    assert found == [cell for one in [*expected, tile(0, 1)] for cell in one]


def test_smolvlm_video_between_images_by_hand() -> None:
    film = smolvlm.clip("00:59", "00:59", "01:00", "01:01")
    found = bracketed("User:" + idefics3.view() + film + idefics3.picture(1, 2) + "what")
    assert found == [
        *tile(0), *tile(1, 0), *tile(1, 1), *tile(1, 2), *tile(1, 3),
        *tile(2), *tile(2, column=2), *tile(2, 1),
    ]  # fmt: skip


def test_smolvlm_frames_may_be_far_apart() -> None:
    found = bracketed(smolvlm.clip("00:00", "09:58", "12:51", "99:59", "100:00", "123:45"))
    assert [cell[1:3] for cell in found[::4]] == [(0, frame) for frame in range(6)]


def test_smolvlm_videos_one_after_another_are_two() -> None:
    found = bracketed(smolvlm.clip("00:00", "00:01") + smolvlm.clip("00:00", "00:01"))
    assert [cell[1:3] for cell in found[::4]] == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize("between", ["", "\n", " and ", "\nwhat is this\n"])
def test_views_without_times_are_images(between: str) -> None:
    found = bracketed("User:" + between.join([idefics3.view()] * 3))
    assert [cell[1:3] for cell in found[::4]] == [(0, 0), (1, 0), (2, 0)]


def test_rows_of_different_lengths_are_refused() -> None:
    uneven = idefics3.picture(1, 3).split("\n")[0] + "\n" + idefics3.picture(1, 2)
    with pytest.raises(AdapterError, match=r"tiles have \[3, 2\] tiles, which is no grid"):
        bracketed(uneven)


def test_an_image_without_its_view_is_refused() -> None:
    cut = idefics3.picture(1, 2).split("\n")[0] + idefics3.OUT
    with pytest.raises(AdapterError, match="ends in a row of 2 tiles, not in a view of all of it"):
        bracketed(cut)


def test_tiles_of_another_size_are_refused() -> None:
    with pytest.raises(AdapterError, match="write the prompt with this model's own processor"):
        bracketed(f"{idefics3.OUT}<global-img>" + "<image>" * 8 + idefics3.OUT)


def test_numbers_in_words() -> None:
    found = [in_words(n) for n in (1, 8, 13, 20, 21, 64, 100, 101, 180, 999)]
    assert found == [
        "one", "eight", "thirteen", "twenty", "twenty-one", "sixty-four", "one hundred",
        "one hundred and one", "one hundred and eighty", "nine hundred and ninety-nine",
    ]  # fmt: skip
    with pytest.raises(AdapterError, match="1000 frames were given"):
        in_words(1000)


# --- Ovis2


def ovis2_layout(*ids: int) -> Layout:
    inputs = {**padded([list(ids)]), "pixel_values": pixels(1)}
    return Ovis2().layout(ovis2.tiny_ovis2(), inputs)


def test_ovis2_view_tiles_and_indicators_by_hand() -> None:
    start, grid, column, row, end = range(121, 126)
    one, end_of = [120] * 4, separator(0)
    rows = [*one, column, *one, row, *one, column, *one]
    found = cells(ovis2_layout(7, start, *one, grid, *rows, end, start, *one, grid, end, 8))
    assert found == [
        TEXT, TEXT, *tile(0), end_of, *tile(0, 1), end_of, *tile(0, 1, column=2), end_of,
        *tile(0, 1, row=2), end_of, *tile(0, 1, row=2, column=2), end_of,
        TEXT, *tile(1), separator(1), separator(1), TEXT,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([121, *[120] * 4, 122, *[120] * 4, 123, *[120] * 4, 124, *[120] * 4, 125], r"\[2, 1\]"),
        ([7, *[120] * 4, 122, 125], "behind the token 7, not 4 behind one of"),
        ([121, *[120] * 4, 123, *[120] * 4, 125], "behind the token 123, not 4 behind one of"),
        ([121, *[120] * 8, 122, 125], "has 8 of them"),
        ([121, *[120] * 5, 122, 125], "no whole number of tiles"),
    ],
)
def test_ovis2_images_of_another_shape_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        ovis2_layout(*ids, 5)


def test_ovis2_indicators_go_with_the_last_token_of_their_image_only() -> None:
    model, inputs = ovis2.tiny_ovis2(), ovis2.image()
    with torch.no_grad(), tokenreduce.reduce(model, "fastv", layer=0, ratio=0.5) as run:
        model(**inputs)
    kept = set(run.trace.kept_positions()[-1][0])
    ids = inputs["input_ids"][0].tolist()
    assert {n for n, token in enumerate(ids) if token != ovis2.IMAGE} <= kept
    assert run.trace.visual_tokens == (28,)


# --- PerceptionLM


def test_perception_lm_video_and_image_by_hand() -> None:
    inputs = perception_lm.asked([*perception_lm.FILM, 6, *perception_lm.ONE], images=1, videos=1)
    found = cells(PerceptionLM().layout(perception_lm.tiny_perception_lm(), inputs))
    frames = [cell for frame in range(4) for cell in tile(0, frame)]
    assert found == [
        TEXT, TEXT, *frames, TEXT, *tile(1), *tile(2), *tile(3), TEXT, TEXT, TEXT
    ]  # fmt: skip


def test_perception_lm_tower_must_say_its_shape() -> None:
    model = perception_lm.tiny_perception_lm()
    model.config.vision_config.model_args = {"embed_dim": 16}
    with pytest.raises(AdapterError, match="has no ref_feat_shape"):
        PerceptionLM().layout(model, perception_lm.image())


def test_perception_lm_without_timm_says_what_is_missing(tmp_path: Path) -> None:
    perception_lm.write_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    tower = {"architecture": "vit_pe_core_large_patch14_336", "label_names": ["one", "two"]}
    config["vision_config"] = {
        "model_type": "timm_wrapper", "model_args": config["vision_config"]["model_args"], **tower
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="requires the timm library"):
        load(tmp_path)


# --- all


@families
def test_beams_equal_the_oracle(family: ModuleType) -> None:
    (case,) = family.CASES
    inputs = case.prompts["ragged"]()
    layers = EverySecond(layers=(-1, 2))
    check_against_oracle(case.model(), [layers], inputs, new=3, adapter=case.adapter, num_beams=2)


@families
def test_placeholders_without_pixels_are_refused(family: ModuleType) -> None:
    (case,) = family.CASES
    inputs = {k: v for k, v in case.prompts["images"]().items() if "pixel" not in k}
    with pytest.raises(AdapterError, match="describe fewer images or videos"):
        case.adapter.layout(case.model(), inputs)


# --- loaded


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


@video_families
def test_a_clip_is_answered_with_and_without_a_reducer(
    family: ModuleType, written: Any, clip: Tensor
) -> None:
    loaded = load(written(family))
    assert loaded.adapter.name == name(family)
    loaded.model.generation_config.eos_token_id = None
    video = EncodedVideo(loaded, clip)
    inputs = video.inputs(QUESTION)
    averaged = TemporalAverage(layers=[0])
    for reducers in ([], [FastV(layer=1)], [Vas(start_layer=1, interval=1)], [averaged]):
        found = answer(loaded, inputs, reducers, max_new_tokens=4)
        assert found.text
        assert found.trace.visual_tokens == (FRAMES * 4,)
        assert (found.trace.img_memory < 1) == bool(reducers)
    alone = loaded.model.generate(**video.inputs(QUESTION), max_new_tokens=4)
    assert loaded.decode(alone, inputs) == answer(loaded, inputs, [], max_new_tokens=4).text


@video_families
def test_the_frames_of_a_clip_are_one_item(family: ModuleType, written: Any, clip: Tensor) -> None:
    loaded = load(written(family))
    layout = loaded.adapter.layout(loaded.model, loaded.inputs(clip, QUESTION))
    expected = [tile(0, frame) for frame in range(FRAMES)]
    assert visual(layout) == [cell for one in expected for cell in one]


@video_families
def test_the_tower_runs_once_for_all_questions(
    family: ModuleType, written: Any, clip: Tensor
) -> None:
    loaded = load(written(family))
    video, inner, ran = EncodedVideo(loaded, clip), loaded.model.model, []
    tower = inner.vision_model if family is smolvlm else inner.vision_tower
    tower.register_forward_hook(lambda *_: ran.append(1))
    for question in (QUESTION, "what"):
        inputs = video.inputs(question)
        assert not {"pixel_values", "pixel_values_videos"} & set(inputs)
        answer(loaded, inputs, [FastV(layer=1)], max_new_tokens=2)
    assert ran == [1]


def written_out(family: ModuleType, directory: Path, frames: int, times: list[float]) -> str:
    pictures = torch.zeros(frames, 20, 30, 3, dtype=torch.uint8)
    processor = load(directory).checkpoint.processor
    inputs = processor.video_inputs(pictures, QUESTION, times)
    assert inputs["attention_mask"].tolist() == [[1] * inputs["input_ids"].shape[1]]
    return "".join(processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0]))


def test_the_prompt_of_internvl_by_hand(written: Any) -> None:
    cells = "<img>" + "<IMG_CONTEXT>" * 4 + "</img>"
    assert written_out(internvl, written(internvl), 2, [0.0, 3.0]) == (
        f"<|im_start|>user\nFrame1: {cells}\nFrame2: {cells}\nwhat is this<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_the_prompt_of_smolvlm_by_hand(written: Any) -> None:
    """What the tokenizer has no word for is <unk>."""
    view = f"{idefics3.OUT}<global-img>" + "<image>" * 4 + idefics3.OUT
    u = "<unk>"
    found = written_out(smolvlm, written(smolvlm), 3, [0.4, 59.9, 61.0])
    assert found.partition("User: ")[2] == (
        f"You are provided the following series of {u} frames from a 0:01:01 {u}{u}:{u}:{u}{u} "
        f"video.\n\nFrame from 00:00:{view}\nFrame from 00:59:{view}\nFrame from 01:01:{view}\n\n"
        "what is this<end_of_utterance>\nAssistant:"
    )


def test_the_prompt_of_perception_lm_by_hand(written: Any) -> None:
    begin, end = "<|start_header_id|>", "<|end_header_id|>\n\n"
    assert written_out(perception_lm, written(perception_lm), 3, [0.0, 1.0, 2.0]) == (
        f"{begin}user{end}" + "<|video|>" * 12 + f"what is this<|eot_id|>{begin}assistant{end}"
    )


@video_families
def test_a_missing_tensor_is_named(family: ModuleType, written: Any) -> None:
    file = written(family) / "model.safetensors"
    weights = load_file(file)
    gone = next(key for key in weights if "modality_projection" in key or "or.linear_1.w" in key)
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(AdapterError, match=f"lack 1 of the model's tensors, .* '(model.)?{gone}'"):
        load(file.parent)


@video_families
def test_a_missing_tokenizer_is_an_error(family: ModuleType, written: Any) -> None:
    directory = written(family)
    for file in directory.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(AdapterError, match="no tokenizer can be loaded"):
        load(directory)


@video_families
def test_missing_processor_settings_are_an_error(family: ModuleType, written: Any) -> None:
    directory = written(family)
    (directory / "processor_config.json").unlink()
    with pytest.raises(AdapterError, match="no frame preprocessor settings"):
        load(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": {"height": 64, "width": 64}}, "size=.* has no longest_edge, in pixels"),
        ({"max_image_size": {"longest_edge": 0}}, "max_image_size=.* has no longest_edge"),
        ({"image_mean": [0.5]}, r"mean\.1: "),
    ],
)
def test_settings_of_smolvlm_that_are_not_usable(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    smolvlm.write_checkpoint(tmp_path, **changes)
    with pytest.raises(AdapterError, match=message):
        load(tmp_path)


def test_sampling_settings_of_smolvlm_are_read(tmp_path: Path) -> None:
    """As newer and as older checkpoints write them; the size of the latter gives way to `size`."""
    smolvlm.write_checkpoint(tmp_path)
    processor: Any = load(tmp_path).checkpoint.processor
    assert (processor.frames, processor.sampling) == (64, "fps:1")
    smolvlm.write_checkpoint(tmp_path, num_frames=32, fps=2)
    processor = load(tmp_path).checkpoint.processor
    assert (processor.frames, processor.sampling) == (32, "fps:2")
    sampling = {"max_frames": 16, "fps": 0.5, "video_size": {"longest_edge": 128}}
    for size, longest in (({"longest_edge": 64}, 64), (None, 128)):
        older = {"video_sampling": sampling, "max_image_size": {"longest_edge": 32}}
        older |= {"size": size} if size else {}
        (tmp_path / "processor_config.json").write_text(json.dumps({"video_processor": older}))
        processor = load(tmp_path).checkpoint.processor
        assert (processor.frames, processor.sampling) == (16, "fps:0.5")
        assert processor.preprocess.longest == longest


SHAPES = ((60, 20), (32, 32), (100, 45), (7, 90))  # width, height


def from_processor(processor: Any, placeholder: str) -> tuple[dict[str, Any], list[Any]]:
    """Return what transformers' own processor makes of pictures, and these."""
    pictures = [Image.effect_noise(shape, 100).convert("RGB") for shape in SHAPES]
    text = placeholder.join(["User:", *["\n"] * (len(SHAPES) - 1), "what is this"])
    inputs = dict(processor(text=[text], images=pictures, return_tensors="pt"))
    return inputs, pictures


def extents(layout: Layout) -> list[dict[int, tuple[int, int]]]:
    """Return for each item and each of its frames the rows and columns."""
    found: list[dict[int, tuple[int, int]]] = [{} for _ in range(int(layout.item.max()) + 1)]
    for _, item, frame, row, column in visual(layout):
        before = found[item].get(frame, (0, 0))
        found[item][frame] = (max(before[0], row + 1), max(before[1], column + 1))
    return found


def test_inputs_of_idefics3s_own_processor_are_laid_out() -> None:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    edges = {"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}}
    images = Idefics3ImageProcessorPil(**edges)
    processor = Idefics3Processor(images, idefics3.tokenizer(), image_seq_len=4)
    inputs, pictures = from_processor(processor, "<image>")
    raw = images([pictures], return_row_col_info=True)
    model = idefics3.tiny_idefics3()
    expected = [
        {0: (2 * rows, 2 * columns), 1: (2, 2)} if rows else {0: (2, 2)}
        for rows, columns in zip(raw["rows"][0], raw["cols"][0], strict=True)
    ]
    assert len({str(each) for each in expected}) > 2
    assert extents(Idefics3().layout(model, inputs)) == expected
    with torch.no_grad():
        model(**inputs)  # which counts placeholders as well


def test_inputs_of_ovis2s_own_processor_are_laid_out() -> None:
    from transformers import Ovis2Processor
    from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

    size = {"height": 32, "width": 32}
    images = Ovis2ImageProcessorPil(size=size, crop_to_patches=True, max_patches=6)
    names = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    special = {ovis2.IMAGE + n: name for n, name in enumerate(names)} | {126: "<image>"}
    made = patched.tokenizer(special, None)
    inputs, pictures = from_processor(Ovis2Processor(images, made, image_seq_length=4), "<image>")
    grids = images(pictures)["grids"]
    model = ovis2.tiny_ovis2()
    expected = [
        {0: (2, 2), 1: (2 * rows, 2 * columns)} if rows * columns > 1 else {0: (2, 2)}
        for rows, columns in (list(map(int, grid)) for grid in grids)
    ]
    assert len({str(each) for each in expected}) > 2
    assert extents(Ovis2().layout(model, inputs)) == expected
    with torch.no_grad():
        model(**inputs)


@pytest.mark.parametrize(("family", "make"), IMAGES, ids=["idefics3", "ovis2"])
def test_families_without_video_are_loaded_and_say_so(
    family: ModuleType, make: Callable[[], Any], tmp_path: Path
) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    words_only(template=None).save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.adapter.name == name(family)
    inputs = family.images()
    found = answer(loaded, inputs, [FastV(layer=1, ratio=0.5)], max_new_tokens=2)
    assert found.trace.img_memory < 1
    with torch.no_grad():
        ours, theirs = loaded.model(**inputs).logits, model(**inputs).logits
    assert torch.allclose(ours, theirs, atol=1e-5)
    with pytest.raises(AdapterError, match="takes images, not a video of 2 frames"):
        loaded.inputs(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), QUESTION)
