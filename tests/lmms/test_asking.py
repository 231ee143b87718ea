"""Questions in batches are answered as they are one at a time, by every family with a processor."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.adapters import published_vila, test_longva, test_pllava
from tests.adapters.family import families
from tokenreduce.inference import EncodedVideo, Loaded, answer, load_model
from tokenreduce.lmms import asking, generation
from tokenreduce.lmms.asking import Asked, Asker
from tokenreduce.lmms.generation import Generation
from tokenreduce.lmms.messages import Prompt
from tokenreduce.plugins import load_plugins
from tokenreduce.testing import write_clip
from tokenreduce.video import load_video
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.vas import Vas

ADAPTERS = load_plugins(entry_points=[]).registry.adapters
QUESTIONS = ("what is this?", "what is this and what is that, and why is it so?", "where is it?")
TOKENS = 6
# Not before layer 2: Qwen3-VL adds features up to there.
REDUCERS = (Random(layers=(3,), ratios=(0.5,)), Vas(start_layer=2, end_layer=4, interval=1))


def with_checkpoints() -> list[Any]:
    """Return the files of families that can write a tiny checkpoint and take videos."""
    found = {}
    for case in families():
        if "video" in case.prompts:
            name = type(case.adapter).__module__.rpartition(".")[2]
            module = importlib.import_module(f"tests.adapters.families.{name}")
            if hasattr(module, "write_checkpoint"):
                found[name] = module
    return [pytest.param(module, id=name) for name, module in found.items()]


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"clip{number}.mp4" for number in range(2)]
    for number, path in enumerate(paths):
        write_clip(path, frames=8 + 4 * number)
    return paths


@pytest.fixture(scope="module")
def embedded() -> Loaded:
    return load_model("embedded", ADAPTERS, dtype="float32", device="cpu")


def asked(clips: list[Path], **settings: Any) -> list[Asked]:
    prompts = [Prompt(question, clip, frames=4) for clip in clips for question in QUESTIONS]
    return [
        Asked(prompt, Generation(TOKENS, **settings), draw=n) for n, prompt in enumerate(prompts)
    ]


def plain(loaded: Loaded, prompt: Prompt, reducers: Any = REDUCERS) -> Any:
    """Return what `compare` would make of a question."""
    assert prompt.video is not None
    video = load_video(prompt.video, prompt.frames or 0, loaded.checkpoint.processor.sampling)
    inputs = EncodedVideo(loaded, video.frames, video.timestamps).inputs(prompt.question)
    return answer(loaded, inputs, reducers, seed=3, max_new_tokens=TOKENS)


@pytest.mark.parametrize("module", with_checkpoints())
def test_batches_answer_as_one_at_a_time(
    module: Any, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    module.write_checkpoint(folder)
    loaded = load_model(str(folder), ADAPTERS, dtype="float32", device="cpu")
    sizes: list[int] = []
    whole = asking.generate

    def watched(loaded: Loaded, inputs: Any, *rest: Any) -> Any:
        sizes.append(len(inputs["attention_mask"]))
        return whole(loaded, inputs, *rest)

    monkeypatch.setattr(asking, "generate", watched)
    questions = asked(clips)
    found = Asker(loaded, REDUCERS, seed=3).ask(questions)
    assert [each.error for each in found] == [None] * len(questions)
    assert max(sizes) > 1
    for question, said in zip(questions, found, strict=True):
        alone = plain(loaded, question.prompt)
        assert said.text == alone.text
        assert said.tokens_per_layer == alone.trace.tokens_per_layer[0]
        assert said.flops_ratio == alone.trace.flops_ratio
        assert said.img_memory == pytest.approx(alone.trace.img_memory)
        assert said.ttft is not None
        assert said.seconds is not None
        assert 0 < said.ttft <= said.seconds


# Of families that transformers has not: what writes a folder as it was published.
PUBLISHED: dict[str, Callable[[Path], Path]] = {
    "longva": lambda folder: test_longva.write(
        folder, test_longva.tensors().named, test_longva.config()
    ),
    "pllava": lambda folder: test_pllava.write(
        folder, test_pllava.tensors().named, test_pllava.config()
    ),
    "vila": published_vila.publish,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_batches_of_published_folders(name: str, clips: list[Path], tmp_path: Path) -> None:
    folder = PUBLISHED[name](tmp_path / name)
    loaded = load_model(str(folder), ADAPTERS, dtype="float32", device="cpu")
    reducers = (Random(layers=(0,), ratios=(0.5,)),)  # they have few layers
    frames = 4 if name == "longva" else loaded.checkpoint.processor.frames
    questions = [
        replace(each, prompt=replace(each.prompt, frames=frames)) for each in asked(clips)[1:4]
    ]
    for question, said in zip(
        questions, Asker(loaded, reducers, seed=3).ask(questions), strict=True
    ):
        alone = plain(loaded, question.prompt, reducers)
        assert (said.error, said.batch) == (None, len(questions))
        assert said.text == alone.text
        assert said.tokens_per_layer == alone.trace.tokens_per_layer[0]
        assert said.flops_ratio == alone.trace.flops_ratio


def test_every_family_with_videos_is_among_them() -> None:
    names = {param.id for param in with_checkpoints()} | PUBLISHED.keys()
    with_video = {case.adapter.name for case in families() if "video" in case.prompts}
    assert with_video - names <= {"generic"}  # which has no processor


def test_a_batch_of_one_layout_is_one_generate(embedded: Loaded, clips: list[Path]) -> None:
    found = Asker(embedded, REDUCERS, seed=3).ask(asked(clips))
    assert {each.batch for each in found} == {len(found)}


def test_beams_of_a_batch_are_counted_once(embedded: Loaded, clips: list[Path]) -> None:
    questions = asked(clips, options={"num_beams": 3, "do_sample": False})
    asker = Asker(embedded, REDUCERS, seed=3)
    for said, question in zip(asker.ask(questions), questions, strict=True):
        (alone,) = asker.ask([question])
        plan = plain(embedded, question.prompt).trace
        assert (said.batch, alone.batch) == (len(questions), 1)
        assert (said.text, said.error) == (alone.text, None)
        assert said.tokens_per_layer == plan.tokens_per_layer[0] == alone.tokens_per_layer
        assert said.flops_ratio == plan.flops_ratio == alone.flops_ratio


def test_tokens_of_an_answer_are_its_own(
    embedded: Loaded, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = asked(clips)
    asker = Asker(embedded, ())
    whole = asker.ask(questions)
    settings = embedded.model.generation_config
    processor = embedded.checkpoint.processor
    (early,) = processor.tokenizer(whole[0].text.split()[0], add_special_tokens=False)["input_ids"]
    monkeypatch.setattr(settings, "eos_token_id", [settings.eos_token_id, early])
    found = [each.output_tokens for each in asker.ask(questions)]
    assert found == [asker.ask([question])[0].output_tokens for question in questions]
    assert found[0] == 1
    assert max(each or 0 for each in found) > 1


def test_ttft_is_the_time_of_the_first_token(
    embedded: Loaded, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A clock that is read three times: at the start, at the first of the tokens, and at the end.
    monkeypatch.setattr(generation, "perf_counter", count(10).__next__)
    (said,) = Asker(embedded, ()).ask(asked(clips)[:1])
    assert said.output_tokens is not None
    assert said.output_tokens > 1
    assert (said.ttft, said.seconds) == (1, 2)


def test_layouts_that_differ_are_apart(embedded: Loaded, clips: list[Path]) -> None:
    questions = asked(clips)
    questions[2] = replace(questions[2], prompt=replace(questions[2].prompt, frames=8))
    found = Asker(embedded, REDUCERS, seed=3).ask(questions)
    assert [each.batch for each in found] == [5, 5, 1, 5, 5, 5]
    for question, said in zip(questions, found, strict=True):
        assert said.text == plain(embedded, question.prompt).text


def test_parts_of_one_video_are_decoded_apart(
    embedded: Loaded, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[torch.Tensor] = []
    whole = asking.EncodedVideo

    def watched(loaded: Loaded, frames: torch.Tensor, times: Any) -> Any:
        shown.append(frames)
        return whole(loaded, frames, times)

    monkeypatch.setattr(asking, "EncodedVideo", watched)
    parts = [(None, None), (None, 0.5), (0.5, None)]
    asker = Asker(embedded, ())
    for start, end in parts:
        prompt = Prompt(QUESTIONS[0], clips[1], frames=2, start=start, end=end)
        asker.ask([Asked(prompt, Generation(1))])
    for frames, (start, end) in zip(shown, parts, strict=True):
        rule = embedded.checkpoint.processor.sampling
        assert torch.equal(frames, load_video(clips[1], 2, rule, start=start, end=end).frames)


def test_questions_that_are_generated_otherwise_are_apart(
    embedded: Loaded, clips: list[Path]
) -> None:
    questions = asked(clips)[:3]
    questions[1] = replace(questions[1], generation=Generation(1))
    found = Asker(embedded, ()).ask(questions)
    assert [each.batch for each in found] == [2, 1, 2]
    assert found[1].output_tokens == 1


def test_frames_of_the_run_go_before_those_of_the_task(embedded: Loaded, clips: list[Path]) -> None:
    (said,) = Asker(embedded, (), frames=6).ask(asked(clips)[:1])
    assert said.visual_tokens == 6 * 16  # 4 x 4 tokens a frame
    assert said.img_memory == 1
    assert said.flops_ratio == 1


def test_one_broken_video_fails_alone(embedded: Loaded, clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_text("no video")
    questions = asked(clips)
    questions[1] = Asked(Prompt("is it?", tmp_path / "broken.mp4"), Generation(TOKENS))
    questions[4] = Asked(Prompt("is it?", tmp_path / "none.mp4"), Generation(TOKENS))
    found = Asker(embedded, REDUCERS, seed=3).ask(questions)
    assert [each.error is None for each in found] == [True, False, True, True, False, True]
    assert "none.mp4: there is no such file" in str(found[4].error)
    assert found[4].text == ""


def test_a_batch_that_fails_is_asked_one_by_one(
    embedded: Loaded, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = asking.generate

    def refuses_batches(loaded: Loaded, inputs: Any, *rest: Any) -> Any:
        if len(inputs["attention_mask"]) > 1:
            raise RuntimeError("too much")
        return whole(loaded, inputs, *rest)

    monkeypatch.setattr(asking, "generate", refuses_batches)
    found = Asker(embedded, REDUCERS, seed=3).ask(asked(clips))
    assert {each.batch for each in found} == {1}
    assert all(each.text for each in found)


def test_what_is_drawn_does_not_depend_on_the_batch(embedded: Loaded, clips: list[Path]) -> None:
    options = {"do_sample": True, "temperature": 5.0}
    questions = asked(clips, options=options)
    together = [said.text for said in Asker(embedded, ()).ask(questions)]
    asker = Asker(embedded, ())
    apart = [asker.ask([question])[0].text for question in reversed(questions)]
    assert together == apart[::-1]
    again = [replace(question, draw=question.draw + 100) for question in questions]
    assert together != [said.text for said in asker.ask(again)]


def test_answers_end_where_they_are_to(embedded: Loaded, clips: list[Path]) -> None:
    (whole,) = Asker(embedded, ()).ask(asked(clips)[:1])
    assert len(whole.text) > 1
    (cut,) = Asker(embedded, ()).ask(asked(clips, until=("never said", whole.text[1:]))[:1])
    assert cut.text == whole.text[0]


def test_pictures_are_the_frames_of_a_clip(embedded: Loaded, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 255, (48, 48, 3), dtype=np.uint8) for _ in range(4)]
    pictures = [Image.fromarray(array) for array in arrays]
    pictures[0].save(tmp_path / "first.png")
    prompt = Prompt(QUESTIONS[0], images=(tmp_path / "first.png", *pictures[1:]))
    (said,) = Asker(embedded, REDUCERS, seed=3).ask([Asked(prompt, Generation(TOKENS))])
    frames = torch.from_numpy(np.stack(arrays))
    inputs = EncodedVideo(embedded, frames).inputs(QUESTIONS[0])
    alone = answer(embedded, inputs, REDUCERS, seed=3, max_new_tokens=TOKENS)
    assert said.text == alone.text
    assert said.tokens_per_layer == alone.trace.tokens_per_layer[0]
    odd = Prompt(QUESTIONS[0], images=(pictures[0], Image.new("RGB", (5, 5))))
    (failed,) = Asker(embedded, ()).ask([Asked(odd, Generation(TOKENS))])
    assert "cannot be the frames of one clip" in str(failed.error)
