"""Whole comparisons of a tiny random model, against the bare model and arithmetic by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import av
import pytest
import torch
from transformers import SiglipVisionModel

from tests.runs.conftest import Observed, Questions, write_clip
from tokenreduce import Plan, Reducer, View, clips
from tokenreduce.ablations.questions import list_questions, spread
from tokenreduce.benchmark import Sample
from tokenreduce.config import CommonSettings, CompareConfig
from tokenreduce.errors import AdapterError, ConfigError, VideoError
from tokenreduce.inference import EncodedVideo, Loaded, answer, load_model
from tokenreduce.labels import joined, settings, summary, with_baseline
from tokenreduce.records import SampleRecord
from tokenreduce.runner import answer_clip, compare
from tokenreduce.store import Store
from tokenreduce.testing.tiny import PER_FRAME, VIDEO
from tokenreduce.video import VideoPass, load_video
from tokenreduce.worker import reason
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.vcc import Vcc

LAYERS, FRAMES = 6, 4
HALF = Random(layers=(2,), ratios=(0.5,))


class Patient(Reducer):
    """The same settings as the faulty one, and no fault."""

    name: ClassVar[str] = "faulty"

    error: str = ""
    after: int = 0

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (0,)

    def plan(self, view: View) -> Plan | None:
        return None


class Faulty(Reducer):
    """Drops nothing; what happens at its layer is up to the test."""

    name: ClassVar[str] = "faulty"

    error: str = ""
    after: int = 0
    calls: ClassVar[list[int]] = []

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return (0,)

    def plan(self, view: View) -> Plan | None:
        self.calls.append(1)
        if len(self.calls) > self.after:
            raise KeyboardInterrupt if self.error == "interrupt" else RuntimeError(self.error)
        return None


@pytest.fixture(autouse=True)
def faulty(observed: Observed) -> None:
    Faulty.calls.clear()
    observed.reducers["faulty"] = Faulty


def records(folder: Path, label: str) -> list[SampleRecord]:
    with Store.read(folder) as store:
        return [r for key, cell in store.cells() if cell.label == label for r in store.records(key)]


def config(
    checkpoint: Path, questions: Questions, rows: dict[str, Any], **settings: Any
) -> CompareConfig:
    common = CommonSettings(model=str(checkpoint), max_new_tokens=3, device="cpu", **settings)
    return CompareConfig(common, questions, rows)


def bare_answers(loaded: Loaded, questions: Questions) -> list[str]:
    """Answers of the model alone: its own generate on pixels, no feature is reused."""
    from transformers import AutoTokenizer

    model: Any = loaded.checkpoint.model
    tokenizer = AutoTokenizer.from_pretrained(model.name_or_path)
    words = []
    for sample in questions.samples():
        with av.open(str(sample.video)) as container:
            images = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        # 4 middle frames of 6: segments of 1.5 frames with middles 0.75, 2.25, 3.75, 5.25
        frames = torch.stack([torch.from_numpy(images[i]) for i in (0, 2, 3, 5)])
        pixels = torch.nn.functional.interpolate(
            frames.permute(0, 3, 1, 2), (32, 32), mode="bicubic", antialias=True
        )
        prompt = tokenizer(f"user <video> {sample.question} assistant")["input_ids"]
        place = prompt.index(VIDEO)
        ids = prompt[:place] + [VIDEO] * (FRAMES * PER_FRAME + 1) + prompt[place + 1 :]
        out = model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            pixel_values_videos=(pixels[None].float() / 255 - 0.5) / 0.5,
            max_new_tokens=3,
            do_sample=False,
        )
        words.append(tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True))
    return words


def test_the_baseline_is_the_bare_model(
    checkpoint: Path, loaded: Loaded, questions: Questions, observed: Observed, tmp_path: Path
) -> None:
    expected = bare_answers(loaded, questions)
    assert len(set(expected)) > 1
    asked = questions.model_copy(update={"answer": expected[0]})
    report = compare(config(checkpoint, asked, {"half": (HALF,)}), observed, out=tmp_path)
    found = {record.sample: record for record in records(tmp_path, "keep_all")}
    for sample, said in zip(questions.samples(), expected, strict=True):
        assert found[sample.id].prediction == said
        assert found[sample.id].correct == (said == expected[0])
    assert [row.label for row in report.rows] == ["keep_all", "half"]
    assert report.rows[0].accuracy == pytest.approx(expected.count(expected[0]) / 6)


def test_counts_by_hand(checkpoint: Path, questions: Questions, observed: Observed) -> None:
    report = compare(config(checkpoint, questions, {"half": (HALF,)}), observed)
    full, half = report.rows
    assert (full.img_memory, full.flops_ratio, full.ttft_speedup) == (1.0, 1.0, 1.0)
    assert half.img_memory == pytest.approx((3 * 1 + 3 * 0.5) / LAYERS)
    assert 0.5 < half.flops_ratio < 1
    assert half.ttft_ms > 0
    assert half.ttft_speedup > 0
    assert half.peak_memory_mb > 0
    assert (half.samples, half.failed) == (6, 0)
    assert list(half.categories) == ["kind 0", "kind 1", "kind 2"]
    assert not report.interrupted


def test_tokens_per_layer_are_kept(
    checkpoint: Path, questions: Questions, observed: Observed, tmp_path: Path
) -> None:
    compare(config(checkpoint, questions, {"half": (HALF,)}), observed, out=tmp_path)
    assert {r.tokens_per_layer for r in records(tmp_path, "keep_all")} == {(16,) * 6}
    assert {r.tokens_per_layer for r in records(tmp_path, "half")} == {(16,) * 3 + (8,) * 3}


def test_each_video_is_decoded_and_encoded_once(
    checkpoint: Path,
    questions: Questions,
    observed: Observed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoded: list[Path] = []
    encoded: list[int] = []
    tower = SiglipVisionModel.forward

    class Counted(VideoPass):
        def __init__(self, path: Path, *args: Any) -> None:
            decoded.append(path)
            super().__init__(path, *args)

    def encode(*args: Any, **kwargs: Any) -> Any:
        encoded.append(1)
        return tower(*args, **kwargs)

    monkeypatch.setattr(clips, "VideoPass", Counted)
    monkeypatch.setattr(SiglipVisionModel, "forward", encode)
    monkeypatch.setattr("tokenreduce.runner.TIMED_SAMPLES", 1)
    rows = {"half": (HALF,), "vcc": (Vcc(layer=0),)}
    compare(config(checkpoint, questions, rows, seeds=(0, 1)), observed, out=tmp_path)
    assert [len(records(tmp_path, label)) for label in ("keep_all", *rows)] == [12, 12, 12]
    # The last one is the timing pass, over one question.
    assert decoded == [*questions.files, questions.files[0]]
    assert len(encoded) == 3


def test_progress(checkpoint: Path, questions: Questions, observed: Observed) -> None:
    told: list[tuple[int, int, str]] = []
    compare(
        config(checkpoint, questions, {"half": (HALF,)}),
        observed,
        lambda done, total, what: told.append((done, total, what)),
    )
    answers = [(done, total) for done, total, what in told if what == "answers"]
    assert sorted(set(answers)) == [(n, 12) for n in range(13)]
    assert answers == sorted(answers)
    assert (12, 12, "timing") in told


def test_a_broken_video_fails_its_own_questions_only(
    checkpoint: Path, observed: Observed, tmp_path: Path
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    good = write_clip(tmp_path / "good.mp4", 1)
    asked = Questions(files=(tmp_path / "broken.mp4", good))
    report = compare(config(checkpoint, asked, {"half": (HALF,)}), observed)
    assert [(row.samples, row.failed) for row in report.rows] == [(6, 3), (6, 3)]
    assert report.failed == 6
    assert len(report.errors) == 2
    assert "broken.mp4: not readable as video" in report.errors[0]
    assert all(row.ttft_ms and row.peak_memory_mb for row in report.rows)  # from the good one


def test_a_failing_reducer_fails_its_own_row_only(
    checkpoint: Path, questions: Questions, observed: Observed
) -> None:
    rows = {"bad": (Faulty(error="out of luck"),), "half": (HALF,)}
    report = compare(config(checkpoint, questions, rows), observed)
    assert [(row.label, row.failed) for row in report.rows] == [
        ("keep_all", 0),
        ("bad", 6),
        ("half", 0),
    ]
    assert report.rows[1].ttft_speedup is None
    assert len(report.errors) == 1
    assert report.errors[0].startswith("bad: ")
    assert report.errors[0].endswith("RuntimeError: out of luck")


def test_what_fails_while_it_is_timed_is_not_timed(
    checkpoint: Path, questions: Questions, observed: Observed
) -> None:
    asked = questions.model_copy(update={"files": questions.files[:1]})
    rows = {"bad": (Faulty(error="late", after=3),), "half": (HALF,)}
    report = compare(config(checkpoint, asked, rows), observed)
    assert [row.failed for row in report.rows] == [0, 0, 0]
    assert [row.ttft_ms is None for row in report.rows] == [False, True, False]
    assert report.errors == ("timing: bad: reducer 'faulty' failed after layer 0 on sample 0: "
                             "RuntimeError: late",)  # fmt: skip


def test_interrupt_keeps_what_is_done(
    checkpoint: Path, questions: Questions, observed: Observed, tmp_path: Path
) -> None:
    rows = {"stop": (Faulty(error="interrupt", after=2),)}
    report = compare(config(checkpoint, questions, rows), observed, out=tmp_path)
    assert report.interrupted
    assert [row.samples for row in report.rows] == [2, 2]
    assert [event for event, _ in observed.events] == ["run_started"]
    Faulty.calls.clear()
    observed.reducers["faulty"] = Patient
    report = compare(config(checkpoint, questions, rows), observed, out=tmp_path)
    assert not report.interrupted
    assert [row.samples for row in report.rows] == [6, 6]


def test_observers_are_told(checkpoint: Path, questions: Questions, observed: Observed) -> None:
    report = compare(config(checkpoint, questions, {"half": (HALF,)}), observed)
    names = [event for event, _ in observed.events]
    assert names == ["run_started", "cell_finished", "cell_finished", "run_finished"]
    assert observed.events[0][1]["labels"] == ["keep_all", "half"]
    json.dumps(observed.events[0][1]["config"])
    assert observed.events[2][1]["row"]["label"] == "half"
    assert observed.events[3][1]["document"] == report.document()


def test_seeds_make_passes_of_their_own(
    checkpoint: Path, questions: Questions, observed: Observed, tmp_path: Path
) -> None:
    rows = {"half": (HALF,)}
    report = compare(config(checkpoint, questions, rows, seeds=(1, 2)), observed, out=tmp_path)
    assert [row.samples for row in report.rows] == [12, 12]
    with Store.read(tmp_path) as store:
        halves = [(key, cell.seed) for key, cell in store.cells() if cell.label == "half"]
        said = {(seed, r.sample): r.prediction for key, seed in halves for r in store.records(key)}
        timed = {seed: len(store.timings(key)) for key, seed in halves}
    assert {seed for seed, _ in said} == {1, 2}
    assert any(said[1, s] != said[2, s] for _, s in said)
    assert timed == {1: 18, 2: 0}  # six questions in three rounds, of one pass only


def test_frames_of_the_run_come_before_those_of_the_benchmark(
    checkpoint: Path, questions: Questions, observed: Observed, tmp_path: Path
) -> None:
    compare(config(checkpoint, questions, {"half": (HALF,)}, frames=2), observed, out=tmp_path)
    assert records(tmp_path, "keep_all")[0].tokens_per_layer == (2 * PER_FRAME,) * LAYERS


def test_a_limit_spreads_questions(
    checkpoint: Path, questions: Questions, observed: Observed, tmp_path: Path
) -> None:
    compare(config(checkpoint, questions, {"half": (HALF,)}, limit=3), observed, out=tmp_path)
    assert [r.sample for r in records(tmp_path, "half")] == ["clip0-0", "clip0-2", "clip1-1"]


def test_a_layer_that_does_not_exist_is_found_before_any_work(
    checkpoint: Path, questions: Questions, observed: Observed
) -> None:
    with pytest.raises(ConfigError, match="layer 6"):
        compare(config(checkpoint, questions, {"fastv": (FastV(layer=6),)}), observed)
    assert observed.events == []


def test_baseline_comes_first_and_only_once() -> None:
    full, half = (KeepAll(),), (HALF,)
    assert list(with_baseline({"half": half, "full": full})) == ["full", "half"]
    assert with_baseline({"half": half}) == {"keep_all": (), "half": half}
    composed = {"both": (KeepAll(), HALF)}
    assert list(with_baseline(composed)) == ["keep_all", "both"]


def test_rows_say_what_they_are() -> None:
    assert joined((HALF,)) == "random"
    assert settings((HALF,)) == {"layers": [2], "ratios": [0.5]}
    assert summary("half", (HALF,)) == "random layers=[2] ratios=[0.5]"
    composed = (FastV(ratio=0.25), Vcc())
    assert joined(composed) == "fastv+vcc"
    assert [each["use"] for each in settings(composed)] == ["fastv", "vcc"]
    assert settings(composed)[0]["ratio"] == 0.25
    assert summary("both", composed) == "fastv(ratio=0.25) + vcc()"
    assert settings(()) == {}


@pytest.mark.parametrize(
    ("total", "expected"), [(3, [0, 1, 2]), (8, [*range(8)]), (20, [0, 2, 5, 7, 10, 12, 15, 17])]
)
def test_timed_samples_are_spread(total: int, expected: list[int]) -> None:
    samples = [Sample(str(n), Path("x"), "q", "a", "c") for n in range(total)]
    assert [int(sample.id) for sample in spread(samples, 8)] == expected


def test_answer_clip(loaded: Loaded, questions: Questions) -> None:
    question = questions.samples()[0].question
    video = load_video(questions.files[0], FRAMES)
    said = answer_clip(loaded, video, question, [HALF], max_new_tokens=3)
    assert said.answer_full == bare_answers(loaded, questions)[0]
    document = json.loads(json.dumps(said.document()))
    assert list(document) == [
        "answer",
        "answer_full",
        "model",
        "adapter",
        "frames",
        "tokens_per_layer",
        "img_memory",
        "ttft_ms",
        "ttft_full_ms",
    ]
    assert (document["model"], document["adapter"]) == ("tiny", "llava_onevision")
    assert document["frames"] == FRAMES
    assert document["tokens_per_layer"] == [16] * 3 + [8] * 3
    assert document["img_memory"] == 0.75
    assert document["ttft_ms"] > 0
    assert document["ttft_full_ms"] > 0


def test_answer_clip_without_reducer(loaded: Loaded, questions: Questions) -> None:
    video = load_video(questions.files[0])
    said = answer_clip(loaded, video, "is the ring first", [], max_new_tokens=2)
    assert said.answer == said.answer_full
    assert said.img_memory == 1.0
    assert said.frames == 16  # of 6 in the file: they repeat


def test_features_are_reused_exactly(loaded: Loaded) -> None:
    torch.manual_seed(0)
    frames = torch.randint(0, 255, (FRAMES, 32, 32, 3), dtype=torch.uint8)
    shared = EncodedVideo(loaded, frames)
    shared.inputs("which color is the ring")
    second = answer(loaded, shared.inputs("is the cross first"), ())
    alone = answer(loaded, EncodedVideo(loaded, frames).inputs("is the cross first"), ())
    assert second.text == alone.text
    assert second.trace == alone.trace


def test_reasons_are_one_line() -> None:
    assert reason(ValueError("a\nb")) == "ValueError: a b"
    assert reason(VideoError("x.mp4: empty.")) == "x.mp4: empty."
    assert len(reason(RuntimeError("y" * 1000))) == 300


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ConfigError, "'.*model' is no checkpoint directory: .*config.json' cannot be read"),
        ("{", AdapterError, "is no model configuration"),
        ("{}", AdapterError, "it has no model_type"),
        ("[]", AdapterError, "it has no model_type"),
        (
            '{"model_type": "llava_onevison"}',
            AdapterError,
            "no adapter claims the model_type 'llava_onevison' of .*did you mean 'llava_onevision'",
        ),
    ],
)
def test_models_that_cannot_be_loaded(
    tmp_path: Path, observed: Observed, content: str | None, error: type, message: str
) -> None:
    directory = tmp_path / "model"
    if content is not None:
        directory.mkdir()
        (directory / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        load_model(str(directory), observed.adapters, dtype="float32", device="cpu")


def test_a_benchmark_that_cannot_list_its_questions_is_a_wrong_request() -> None:
    class Broken(Questions):
        name = "broken"

        def samples(self, progress: Any = None) -> list[Sample]:
            raise TypeError("Sample.__init__() got an unexpected keyword argument 'categry'")

    with pytest.raises(ConfigError, match=r"benchmark 'broken' cannot list its questions.*categry"):
        list_questions(Broken.model_construct())
