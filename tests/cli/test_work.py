"""What `compare` and `run` print around the work, which is replaced here by its result."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tokenreduce import inference, runner, video
from tokenreduce.adapter import Processor
from tokenreduce.cli import app
from tokenreduce.console import prepare_libraries
from tokenreduce.errors import ConfigError
from tokenreduce.report import Report, Row
from tokenreduce.runner import ClipAnswer


def row(label: str, failed: int = 0) -> Row:
    return Row(
        label=label,
        reducer=label,
        settings={},
        accuracy=0.5,
        accuracy_interval=(0.25, 0.75),
        categories={"order": 0.5},
        img_memory=1.0,
        flops_ratio=1.0,
        ttft_speedup=1.0,
        ttft_ms=10.0,
        peak_memory_mb=20.0,
        samples=8,
        failed=failed,
    )


def invoke(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        app(list(arguments), prog_name="tokenreduce")
    return int(caught.value.code or 0)


@pytest.mark.parametrize(
    ("failed", "interrupted", "code"), [(0, False, 0), (2, False, 1), (0, True, 130)]
)
def test_compare_prints_a_table_and_ends_with_the_document(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failed: int,
    interrupted: bool,
    code: int,
) -> None:
    rows = (row("keep_all"), row("vas", failed))
    report = Report("embedded", "embedded", rows, (), interrupted)
    seen: list[object] = []

    def compare(config: object, plugins: object, progress: object, *, out: object) -> Report:
        seen.extend([config, out])
        return report

    monkeypatch.setattr(runner, "compare", compare)
    assert invoke("compare", "--set", "reducers.vas.ratio=0.4", "--out", "all.sqlite") == code
    out, err = capsys.readouterr()
    *table, last = out.splitlines()
    assert json.loads(last) == json.loads(report.to_json())
    assert any("vas" in line for line in table)
    assert ("tokenreduce: interrupted." in err) is interrupted
    config, file = seen
    assert config.reducers["vas"][0].ratio == 0.4  # type: ignore[attr-defined]
    assert file == Path("all.sqlite")


LOADED = SimpleNamespace(checkpoint=SimpleNamespace(processor=Processor))


def answer(**changed: object) -> ClipAnswer:
    values: dict[str, object] = {
        "answer": "cross",
        "answer_full": "circle",
        "model": "embedded",
        "adapter": "llava_onevision",
        "frames": 2,
        "tokens_per_layer": (32, 16),
        "img_memory": 0.75,
        "ttft_ms": 10.0,
        "ttft_full_ms": 20.0,
        "video": SimpleNamespace(bad_packets=3),
        **changed,
    }
    return ClipAnswer(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("as_json", [False, True])
def test_run_says_who_answered_what_and_what_each_layer_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    asked: list[object] = []

    def answer_clip(*arguments: object, **_: object) -> ClipAnswer:
        asked.extend(arguments)
        return answer()

    monkeypatch.setattr(video, "load_video", lambda *given: given)
    monkeypatch.setattr(video, "check_video", lambda *given: given)
    monkeypatch.setattr(inference, "load_model", lambda *_, **__: LOADED)
    monkeypatch.setattr(runner, "answer_clip", answer_clip)
    options = ["--reducer", "vas", "--set", "ratio=0.4", *(["--json"] if as_json else [])]
    assert invoke("run", "clip.mp4", "-q", "which ?", *options) == 0
    out, err = capsys.readouterr()
    loaded, opened, question, (reducer,) = asked  # type: ignore[misc]
    assert opened == (Path("clip.mp4"), Processor.frames, Processor.sampling)
    assert (loaded, question, reducer.ratio) == (LOADED, "which ?", 0.4)
    assert "embedded (llava_onevision) on 2 frames of clip.mp4" in out
    said = {tuple(part.strip() for part in line.split("  ") if part) for line in out.splitlines()}
    assert said >= {
        ("answer under vas", "cross"),
        ("answer without reduction", "circle"),
        ("TTFT", "10.0 ms, 20.0 ms without reduction"),
        ("visual tokens per layer", "32 16"),
    }
    assert "3 bad packets" in err
    if as_json:
        assert json.loads(out.splitlines()[-1]) == json.loads(json.dumps(answer().document()))


def test_run_without_a_reducer_prints_one_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(video, "load_video", lambda *given: given)
    monkeypatch.setattr(video, "check_video", lambda *given: given)
    monkeypatch.setattr(inference, "load_model", lambda *_, **__: LOADED)
    monkeypatch.setattr(runner, "answer_clip", lambda *_, **__: answer())
    assert invoke("run", "clip.mp4", "-q", "which ?") == 0
    out = capsys.readouterr().out
    assert "circle" in out
    assert "cross" not in out


def test_run_opens_the_file_before_it_reads_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(inference, "load_model", None)
    assert invoke("run", str(tmp_path / "none.mp4"), "-q", "which ?") == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_device_that_is_not_there_is_a_wrong_request(device: str) -> None:
    import torch

    if torch.cuda.is_available():
        device = "cuda:99"
    with pytest.raises(ConfigError, match=f"device '{device}' cannot be used"):
        inference.pick_device(device)


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [("embedded", None, "1"), ("embedded", "4", "4"), ("some/folder", None, None)],
)
def test_embedded_model_runs_on_one_thread_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, model: str, given: str | None, expected: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    prepare_libraries(model)
    assert os.environ.get("OMP_NUM_THREADS") == expected
