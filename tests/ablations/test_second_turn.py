"""Second turns: against the model's own answer to the whole conversation, and the mask oracle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapters.families.qwen2_vl import tiny_qwen2_vl
from tests.adapters.patched import SPECIAL, TEMPLATE, VIDEO, tokenizer
from tests.adapters.published_vila import publish
from tokenreduce.ablations.questions import before_each
from tokenreduce.ablations.run import ablate
from tokenreduce.adapter import Checkpoint
from tokenreduce.benchmark import Sample
from tokenreduce.cells import Cell, Setup
from tokenreduce.config import BASELINE
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.errors import AdapterError, UnsupportedError
from tokenreduce.inference import Loaded, answer_each, load, second_prompt
from tokenreduce.patches import PatchPreprocessor
from tokenreduce.plugins import load_plugins
from tokenreduce.reducer import Reducer
from tokenreduce.testing.clips import write_clip
from tokenreduce.testing.oracle import masked
from tokenreduce.units import Unit
from tokenreduce.video import load_video
from tokenreduce.worker import ModelWorker
from tokenreduce_model_adapters.qwen2_vl import Qwen2VL, Qwen2VLProcessor

REGISTRY = load_plugins(entry_points=[]).registry
SECOND = "<|im_end|> <|im_start|> user {} <|im_end|> assistant"


@cache
def embedded() -> Loaded:
    return load(device="cpu")


@cache
def questions() -> tuple[Sample, ...]:
    return tuple(EmbeddedBenchmark().samples())


def reducer(name: str, **settings: Any) -> Reducer:
    return REGISTRY.reducer(name)(**settings)


def pair(number: int) -> tuple[Sample, Sample]:
    """Return a question of one clip, and the one before it, picked by hand."""
    clip = [s for s in questions() if s.video == questions()[10 * number].video]
    return clip[0], clip[-1]


def inputs_of(sample: Sample, question: str) -> dict[str, Any]:
    video = load_video(sample.video, sample.frames, "uniform")
    return embedded().inputs(video.frames, question, video.timestamps)


def generated(inputs: dict[str, Any], **options: Any) -> Any:
    settings = {"do_sample": False, "max_new_tokens": 8, "return_dict_in_generate": True}
    with torch.no_grad():
        return embedded().model.generate(**inputs, **settings, **options)


def words(tokens: Tensor, prompt: int) -> str:
    return embedded().checkpoint.processor.decode(tokens[0, prompt:]).strip()


def tokenized(text: str) -> list[int]:
    processor: Any = embedded().checkpoint.processor
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


# --- what is asked --------------------------------------------------------------------------------


def test_the_question_before_is_the_one_before_about_the_same_clip() -> None:
    def asked(name: str, video: str, start: float | None = None) -> Sample:
        return Sample(name, Path(video), "?", "yes", "", start=start)

    given = [
        asked("a1", "a"),
        asked("b1", "b"),
        asked("a2", "a"),
        asked("a3", "a"),
        asked("b2", "b", start=1.0),
    ]
    found = {name: before.id for name, before in before_each(given).items()}
    assert found == {"a1": "a3", "a2": "a1", "a3": "a2"}


def test_the_template_writes_what_follows_an_answer() -> None:
    following = embedded().checkpoint.processor.next_turn("is there a ring ?")
    assert following == tokenized(SECOND.format("is there a ring ?"))


def test_a_question_with_a_placeholder_is_refused() -> None:
    with pytest.raises(AdapterError, match="'<video>' stands for a video"):
        embedded().checkpoint.processor.next_turn("what is <video> ?")


def test_what_ended_the_answer_stands_once() -> None:
    model = embedded().model
    end = int(tokenized("<|im_end|>")[0])
    for sequence, expected in (([5, 6, end], [5, 6, end, 9]), ([5, 6, 7], [5, 6, 7, end, 9])):
        prompt = second_prompt(model, torch.tensor([sequence]), [end, 9])
        assert prompt["input_ids"].tolist() == [expected]
        assert prompt["attention_mask"].tolist() == [[1] * len(expected)]


# --- what comes out -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 3, 8])
def test_without_reduction_it_answers_the_whole_conversation(number: int) -> None:
    """The bare model reads both turns in one prefill, without a cache from before."""
    sample, before = pair(number)
    first = inputs_of(sample, before.question)
    prompt = first["input_ids"].shape[1]
    said = words(generated(first).sequences, prompt)
    ids = torch.tensor(
        [[*first["input_ids"][0].tolist(), *tokenized(f"{said} {SECOND.format(sample.question)}")]]
    )
    whole = {**first, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = words(generated(whole).sequences, ids.shape[1])
    (ours,) = answer_each(
        embedded(), first, [((reducer(BASELINE),), 0)], max_new_tokens=8, then=sample.question
    )
    assert not isinstance(ours, Exception)
    assert ours.text == expected


ROWS = {
    "fastv": [("fastv", {"ratio": 0.6})],
    "vas": [("vas", {})],
    "random": [("random", {})],
    "both": [("fastv", {"ratio": 0.3}), ("vas", {})],
}


def stages(name: str) -> tuple[Reducer, ...]:
    return tuple(reducer(each, **settings) for each, settings in ROWS[name])


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("number", [1, 5])
def test_what_the_first_question_removed_is_masked_for_the_second(name: str, number: int) -> None:
    sample, before = pair(number)
    first = inputs_of(sample, before.question)
    (ours,) = answer_each(
        embedded(), first, [(stages(name), 0)], max_new_tokens=8, then=sample.question
    )
    assert not isinstance(ours, Exception)
    held = ours.trace.kept_positions()
    prompt = first["input_ids"].shape[1]
    assert len(held[-1][0]) < prompt
    with masked(embedded().model, held, prompt):
        one = generated(first)
        said = words(one.sequences, prompt)
        ids = [*first["input_ids"][0].tolist(), *tokenized(said)]
        ids += tokenized(SECOND.format(sample.question))
        second = {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
        }
        two = generated(second, past_key_values=one.past_key_values)
    assert ours.text == words(two.sequences, len(ids))


def test_shared_prefills_answer_as_each_alone() -> None:
    sample, before = pair(2)
    first = inputs_of(sample, before.question)
    variants: list[tuple[Sequence[Reducer], int]] = [
        ((reducer("vas", ratio=ratio, interval=interval),), 0)
        for ratio in (0.2, 0.5)
        for interval in (3, 4)
    ]
    variants += [((reducer(BASELINE),), 0), ((reducer("random"),), 0), ((reducer("random"),), 1)]
    together = answer_each(embedded(), first, variants, then=sample.question)
    for variant, ours in zip(variants, together, strict=True):
        (alone,) = answer_each(embedded(), first, [variant], then=sample.question)
        assert not isinstance(ours, Exception)
        assert not isinstance(alone, Exception)
        assert ours.text == alone.text
        assert ours.trace.kept_positions() == alone.trace.kept_positions()


def test_a_family_whose_positions_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen2-VL numbers a video's tokens in three ways: a second turn goes on behind the longest."""
    made = tokenizer(SPECIAL, TEMPLATE)
    model = tiny_qwen2_vl()
    small = PatchPreprocessor(least=64, most=256, budget="frame", patch=4)
    checkpoint = Checkpoint(model, Qwen2VLProcessor(made, small, VIDEO), "qwen2-vl")
    loaded = Loaded("qwen2-vl", Qwen2VL(), checkpoint, "cpu")
    monkeypatch.setattr(loaded.checkpoint.processor, "decode", lambda ids: str(ids.tolist()))
    frames = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    first = loaded.inputs(frames, "this")
    settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": 5}
    said = model.generate(**first, **settings)
    tail = made("<|im_end|>\n<|im_start|>user\nwhat<|im_end|>\n<|im_start|>assistant\n")
    ids = torch.cat([said, torch.tensor([tail["input_ids"]])], dim=1)
    whole = {**first, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    whole["mm_token_type_ids"] = 2 * (ids == VIDEO).long()
    expected = model.generate(**whole, **settings)[0, ids.shape[1] :]
    (ours,) = answer_each(loaded, first, [((reducer(BASELINE),), 0)], max_new_tokens=5, then="what")
    assert not isinstance(ours, Exception)
    assert ours.text == str(expected.tolist())


# --- in grids -------------------------------------------------------------------------------------


def write_questions(folder: Path, lines: Sequence[tuple[str, str, str]]) -> Path:
    for name in {video for video, _, _ in lines}:
        write_clip(folder / name, frames=8)
    file = folder / "questions.jsonl"
    asked = [{"video": v, "question": q, "answer": a} for v, q, a in lines]
    file.write_text("\n".join(map(json.dumps, asked)))
    return file


LINES = [
    ("a.mp4", "is there a ring ?", "yes"),
    ("b.mp4", "is there a ring ?", "yes"),
    ("a.mp4", "is there a box ?", "yes"),
]


def grid(file: Path, **settings: Any) -> dict[str, Any]:
    return {
        "benchmark": {"use": "jsonl", "file": str(file)},
        "turn": {"sweep": [1, 2]},
        "reducers": {"fastv": None},
        **settings,
    }


def test_turns_make_tables_of_their_own(tmp_path: Path) -> None:
    file = write_questions(tmp_path, LINES)
    results = ablate(grid(file, timing={"samples": 1, "repeats": 1}), tmp_path / "out")
    one, two = results.tables
    assert [row.questions for row in one.rows] == [3, 3]
    assert [row.questions for row in two.rows] == [2, 2]
    assert results.failed == 0
    assert "1 questions are the only ones about their clip: no second turn asks them." in (
        results.notes
    )
    # A second turn has no prefill of its own to be timed.
    assert [row.ttft_speedup is not None for row in one.rows] == [True, True]
    assert [row.ttft_speedup for row in two.rows] == [None, None]


def test_another_question_before_is_another_question(tmp_path: Path) -> None:
    file = write_questions(tmp_path, LINES)
    settings: dict[str, Any] = {"timing": False, "turn": 2}
    ablate(grid(file, **settings), tmp_path / "out")
    told: list[int] = []

    def tell(what: str, status: Any) -> None:
        if what == "answers":
            told.append(status.total)

    ablate(grid(file, **settings), tmp_path / "out", progress=tell)
    assert set(told) == {0}
    write_questions(tmp_path, [*LINES[:2], ("a.mp4", "is there a cross ?", "no")])
    ablate(grid(file, **settings), tmp_path / "out", progress=tell)
    # The first question is as it was, and comes after another one.
    assert max(told) == 4


def test_clips_with_one_question_cannot_be_asked_twice(tmp_path: Path) -> None:
    file = write_questions(tmp_path, LINES[:2])
    with pytest.raises(ValueError, match="no clip of the benchmark has two questions"):
        ablate(grid(file, turn=2), tmp_path / "out")


def test_a_turn_is_the_first_or_the_second(tmp_path: Path) -> None:
    file = write_questions(tmp_path, LINES)
    with pytest.raises(ValueError, match="turn: 3 is not valid"):
        ablate(grid(file, turn=3), tmp_path / "out")


def test_families_that_write_one_turn_fail_with_the_reason(tmp_path: Path) -> None:
    folder = publish(tmp_path / "vila")
    video = tmp_path / "a.mp4"
    write_clip(video, frames=8)
    samples = tuple(Sample(str(n), video, f"{n} ?", "x", "", 8) for n in range(2))
    setup = Setup(str(folder), {"use": "jsonl", "file": "-"}, device="cpu", turn=2)
    cell = Cell(setup, BASELINE, BASELINE, ({"use": BASELINE},))
    unit = Unit("answers", setup, samples, (("k", cell),), before=before_each(samples))
    records = list(ModelWorker(REGISTRY).run(unit))
    assert [record.error for record in records] == [
        "VilaProcessor writes prompts of one turn: a second question cannot be asked in the same "
        "conversation."
    ] * 2
    with pytest.raises(UnsupportedError, match="one turn"):
        ModelWorker(REGISTRY).load(setup).checkpoint.processor.next_turn("?")
