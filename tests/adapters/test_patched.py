"""Families whose pictures come as patches: positions, scores, and checkpoints end to end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from torch import Tensor

from tests.adapters.families import glm4v, qwen2_5_vl, qwen2_vl, qwen3_vl, video_llama_3
from tests.adapters.family import FamilyCase
from tokenreduce.errors import AdapterError
from tokenreduce.inference import EncodedVideo, Loaded, answer, load_model
from tokenreduce.layout import Role
from tokenreduce.plan import Plan
from tokenreduce.plugins import load_plugins
from tokenreduce.reducer import Needs, Reducer
from tokenreduce.testing.adapter_checks import EverySecond, Pairs
from tokenreduce.testing.oracle import attach, check_against_oracle, masked
from tokenreduce.video import load_video
from tokenreduce.view import View
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.random import Random

MODULES = (qwen2_vl, qwen2_5_vl, qwen3_vl, glm4v, video_llama_3)
CASES = {case.name: case for module in MODULES for case in module.CASES}
MROPE = {name: case for name, case in CASES.items() if name != "video_llama_3"}
WRITERS = {
    "qwen2_vl": qwen2_vl.write_checkpoint,
    "qwen2_5_vl": qwen2_5_vl.write_checkpoint,
    "qwen3_vl": qwen3_vl.write_checkpoint,
    "qwen3_vl_moe": partial(qwen3_vl.write_checkpoint, kind="Qwen3VLMoe"),
    "glm4v": glm4v.write_checkpoint,
    "glm46v": partial(glm4v.write_checkpoint, kind="Glm46V"),
    "video_llama_3": video_llama_3.write_checkpoint,
}
QUESTION = "what is this?"


def each(cases: dict[str, FamilyCase]) -> Any:
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


@contextmanager
def recorded(module: Any, argument: int | str) -> Iterator[list[Tensor]]:
    """Keep what a module is called with."""
    seen: list[Tensor] = []

    def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[argument] if isinstance(argument, int) else kwargs[argument])

    hook = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


@each(MROPE)
def test_positions_of_prefill_and_decode_are_the_models_own(case: FamilyCase) -> None:
    """In time, row and column; no number follows from a token's place in the sequence."""
    inputs, seen = case.prompts["ragged"](), []
    for reducers in ([], [EverySecond(layers=(case.adapter.first_layer(case.model()) + 1,))]):
        model = case.model()
        rotary = model.get_decoder().rotary_emb
        at = "position_ids" if "glm" in case.name else 1
        with recorded(rotary, at) as positions, attach(model, reducers, case.adapter):
            model.generate(**inputs, max_new_tokens=4, do_sample=False)
        seen.append(positions)
    bare, reduced = seen
    assert len(bare) == len(reduced) == 4
    assert all(torch.equal(one, other) for one, other in zip(bare, reduced, strict=True))
    grid = case.adapter.layout(case.model(), inputs).role == int(Role.GRID)
    time, row, column = bare[0][-3:, grid]
    assert not torch.equal(row, column)
    assert not torch.equal(time, row)


@each(MROPE)
def test_positions_of_a_later_turn_are_the_models_own(case: FamilyCase) -> None:
    """The next words of a conversation on the same cache."""
    seen, first = [], case.prompts["video"]()
    for reducers in ([], [EverySecond(layers=(case.adapter.first_layer(case.model()) + 1,))]):
        model = case.model()
        rotary = model.get_decoder().rotary_emb
        at = "position_ids" if "glm" in case.name else 1
        settings = {"max_new_tokens": 2, "do_sample": False, "return_dict_in_generate": True}
        with recorded(rotary, at) as positions, attach(model, reducers, case.adapter):
            cache = model.generate(**first, **settings).past_key_values
            row = [*first["input_ids"][0].tolist(), 30, 31, 7, 8]  # two generated, two new
            ids = torch.tensor([row])
            more = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            model.generate(**more, **settings, past_key_values=cache)
        seen.append(positions)
    bare, reduced = seen
    assert [len(one) for one in seen] == [4, 4]
    assert all(torch.equal(one, other) for one, other in zip(bare, reduced, strict=True))


@each(MROPE)
def test_pictures_without_token_types_are_refused(case: FamilyCase) -> None:
    """Of the bare models, some number them like text and say nothing; so does every generate."""
    model, inputs = case.model(), case.prompts["video"]()
    del inputs["mm_token_type_ids"]
    with (
        attach(model, [EverySecond(layers=())], case.adapter),
        pytest.raises(AdapterError, match="video_grid_thw came without mm_token_type_ids"),
    ):
        model.generate(**inputs, max_new_tokens=2)


class Watcher(Reducer):
    """Drops every second token, and two layers on writes down what it is told of attention."""

    name: ClassVar[str] = "watcher"
    first: int
    told: list[dict[str, Any]] = Field(default_factory=list)

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (self.first, self.first + 2)

    def needs(self) -> Needs:
        return Needs(attention=frozenset({"text", "all"}), next_layer=True)

    def plan(self, view: View) -> Plan | None:
        if view.layer == self.first:
            return Plan.where(torch.arange(len(view)) % 2 == 0)
        scores = {
            "index": view.index,
            "text": view.attention("text", heads="each"),
            "all": view.attention("all", heads="each"),
            "next": view.attention("last", layer="next", heads="each"),
        }
        self.told.append(scores)
        return None


@each(CASES)
@pytest.mark.parametrize("kind", ["video", "images"])
def test_attention_is_what_the_eager_model_shows(case: FamilyCase, kind: str) -> None:
    """Of this layer and of the next, after a reduction, with the positions each family gives."""
    model, inputs = case.model(), case.prompts[kind]()
    first = case.adapter.first_layer(model)
    watcher = Watcher(first=first, told=[])
    with torch.no_grad(), attach(model, [watcher], case.adapter) as run:
        model(**inputs)
    (told,) = watcher.told
    model = case.model()
    model.set_attn_implementation("eager")
    held, length = run.trace.kept_positions(), inputs["input_ids"].shape[1]
    with torch.no_grad(), masked(model, held, length, adapter=case.adapter):
        shown = model(**inputs, output_attentions=True).attentions
    layout = case.adapter.layout(model, inputs)
    after = int((layout.role[0] > int(Role.TEXT)).nonzero()[-1]) + 1
    index, alive = told["index"], held[first + 2][0]
    this, following = shown[first + 2][0], shown[first + 3][0]
    near = partial(torch.testing.assert_close, rtol=0, atol=1e-5)
    near(told["text"], this[:, after:, index].sum(1))
    near(told["all"], this[:, alive][:, :, index].sum(1))
    near(told["next"], following[:, -1, index])


@pytest.fixture(scope="module", params=WRITERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    WRITERS[request.param](folder)
    return folder


def loaded_from(folder: Path, dtype: str = "float32") -> Loaded:
    return load_model(str(folder), load_plugins().registry.adapters, dtype=dtype, device="cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of 2.4 seconds, 48 x 64 pixels."""
    import numpy as np

    from tokenreduce.embedded.render import write_mp4

    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (24, 48, 64, 3), dtype=np.uint8)
    write_mp4(path, frames)
    return path


def test_a_clip_is_asked_about_end_to_end(checkpoint: Path, clip: Path) -> None:
    loaded = loaded_from(checkpoint)
    processor = loaded.checkpoint.processor
    video = load_video(clip, 6, "linspace")
    inputs = loaded.inputs(video.frames, QUESTION, video.timestamps)
    assert "pixel_values_videos" not in inputs  # encoded once, here
    layout = loaded.adapter.layout(loaded.model, inputs)
    groups = 6 // processor.preprocess.temporal
    frames = layout.frame[layout.role == int(Role.GRID)]
    assert frames.unique().tolist() == list(range(groups))
    full = answer(loaded, inputs, [], max_new_tokens=4)
    start = loaded.adapter.first_layer(loaded.model) + 1
    for reducer in (FastV(ratio=0.5, layer=start), Random(ratios=0.5, layers=(start,))):
        reduced = answer(loaded, inputs, [reducer], max_new_tokens=4)
        assert isinstance(reduced.text, str)
        assert reduced.trace.img_memory < full.trace.img_memory == 1
        assert reduced.trace.visual_tokens == (len(frames),)


def test_a_second_question_uses_the_features_of_the_first(checkpoint: Path, clip: Path) -> None:
    loaded, video = loaded_from(checkpoint), load_video(clip, 4, "linspace")
    shared = EncodedVideo(loaded, video.frames, video.timestamps)
    shared.inputs("this")
    with recorded(loaded.model.model, "input_ids") as runs, torch.no_grad():
        again = loaded.model(**shared.inputs(QUESTION)).logits
        fresh = loaded.model(
            **loaded.checkpoint.processor.video_inputs(video.frames, QUESTION, video.timestamps)
        ).logits
    assert torch.equal(*runs)
    torch.testing.assert_close(again, fresh, rtol=0, atol=1e-5)


def test_files_that_lack_are_named(checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    for gone, message in (
        (("tokenizer.json", "tokenizer_config.json"), "no tokenizer can be loaded"),
        (("processor_config.json",), "no frame preprocessor settings found"),
        (("model.safetensors",), "not loaded as a"),
    ):
        folder = tmp_path / gone[0]
        shutil.copytree(checkpoint, folder)
        for name in gone:
            (folder / name).unlink()
        with pytest.raises(AdapterError, match=message):
            loaded_from(folder)


BEAMS = [
    pytest.param(case, kind, id=f"{case.name}-{kind}")
    for case in CASES.values()
    for kind in ("images", "video+image", "video")
    if "glm" not in case.name or kind == "images"
]


@pytest.mark.parametrize(("case", "kind"), BEAMS)
def test_beams_equal_the_oracle(case: FamilyCase, kind: str) -> None:
    model, inputs = case.model(), case.prompts[kind]()
    reducer = Pairs(layers=(case.adapter.first_layer(model) + 1,))
    check_against_oracle(
        model, [reducer], inputs, new=3, adapter=case.adapter, num_beams=2, do_sample=False
    )


def test_beams_on_a_video_fail_in_the_bare_glm() -> None:
    """What its page says; once transformers mends it, GLM joins the list above."""
    case = CASES["glm4v"]
    with pytest.raises(ValueError, match="non-empty list"):
        case.model().generate(**case.prompts["video"](), max_new_tokens=2, num_beams=2)
