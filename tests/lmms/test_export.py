"""An exported benchmark is a whole task of lmms-eval: its files, and what their functions say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lmms.test_msvd_qa import published
from tokenreduce.benchmark import Sample
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.errors import ConfigError
from tokenreduce.lmms.export import export_task
from tokenreduce.lmms.exported import ExportedTask, doc_of, sample_of
from tokenreduce.lmms.messages import Prompt, read_messages
from tokenreduce.lmms.msvd_qa import MsvdQa

FUNCTIONS = ("doc_to_messages", "doc_to_visual", "doc_to_text", "doc_to_target", "process_results")


class Loader(yaml.SafeLoader):
    """Reads the tag of functions as their name, as lmms-eval's own does."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def read(folder: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    """Return a task's settings, questions and functions."""
    settings = yaml.load((folder / f"{name}.yaml").read_text(), Loader)  # noqa: S506, RUF100
    file = Path(settings["dataset_kwargs"]["data_files"]["test"])
    module_name = settings["doc_to_text"].partition(".")[0]
    spec = importlib.util.spec_from_file_location(module_name, folder / f"{module_name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [settings[each] for each in FUNCTIONS] == [f"{module_name}.{each}" for each in FUNCTIONS]
    return settings, [json.loads(line) for line in file.read_text().splitlines()], module


def test_the_embedded_benchmark_question_by_question(tmp_path: Path) -> None:
    benchmark = EmbeddedBenchmark()
    samples = benchmark.samples()
    export_task(benchmark, samples, tmp_path / "tasks", name="mine", max_new_tokens=9)
    settings, docs, module = read(tmp_path / "tasks", "mine")
    assert settings["task"] == "mine"
    assert settings["output_type"] == "generate_until"
    assert settings["generation_kwargs"] == {
        "max_new_tokens": 9,
        "do_sample": False,
        "until": [],
    }
    assert len(docs) == len(samples) == 245
    for doc, sample in zip(docs, samples, strict=True):
        prompt = read_messages(module.doc_to_messages(doc))
        assert prompt == Prompt(sample.question, sample.video.resolve(), frames=sample.frames)
        assert module.doc_to_visual(doc) == [str(sample.video.resolve())]
        assert module.doc_to_text(doc, {}) == sample.question
        assert module.doc_to_target(doc) == sample.answer
        assert module.process_results(doc, [sample.answer.upper()]) == {"acc": 1.0}
        assert module.process_results(doc, [sample.answer + " or not"]) == {"acc": 0.0}


def test_another_benchmark_brings_its_own_rule(tmp_path: Path) -> None:
    benchmark = MsvdQa(folder=published(tmp_path / "data"))
    files = export_task(benchmark, benchmark.samples(), tmp_path / "out", name="msvd-qa")
    assert [file.name for file in files] == ["msvd-qa.jsonl", "msvd-qa.yaml", "msvd_qa_utils.py"]
    _, docs, module = read(tmp_path / "out", "msvd-qa")
    assert module.process_results(docs[0], ["It is a woman"]) == {"acc": 1.0}
    assert module.process_results(docs[0], ["a man"]) == {"acc": 0.0}


def test_all_of_a_sample_comes_back(tmp_path: Path) -> None:
    plain = Sample("1", tmp_path / "a.mp4", "q?", "b", "c")
    whole = Sample(
        "2",
        tmp_path / "a.mp4",
        "q?",
        "b",
        "c",
        frames=3,
        start=0.5,
        end=2.0,
        options=(("a", "red"), ("b", "blue")),
    )
    for sample in (plain, whole):
        doc = json.loads(json.dumps(doc_of(sample)))
        assert sample_of(doc) == sample
    task = ExportedTask({"use": "embedded"})
    prompt = read_messages(task.doc_to_messages(doc_of(whole)))
    assert prompt == Prompt("q?", tmp_path / "a.mp4", frames=3, start=0.5, end=2.0)


def test_relative_videos_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    doc = doc_of(Sample("1", Path("data", "a.mp4"), "q?", "b", "c"))
    assert doc["video"] == str(tmp_path / "data" / "a.mp4")


def test_a_benchmark_of_a_plugin_that_is_gone() -> None:
    with pytest.raises(ConfigError, match="no benchmark is called 'gone'"):
        _ = ExportedTask({"use": "gone"}).benchmark


def test_wrong_requests(tmp_path: Path) -> None:
    benchmark = EmbeddedBenchmark()
    sample = Sample("1", tmp_path / "a.mp4", "q?", "b", "c")
    with pytest.raises(ConfigError, match="task name 'a b'"):
        export_task(benchmark, [sample], tmp_path, name="a b")
    with pytest.raises(ConfigError, match="has no question to export"):
        export_task(benchmark, [], tmp_path, name="a")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        export_task(benchmark, [sample], tmp_path / "file", name="a")


def test_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tokenreduce", "export-lmms", "--out", str(tmp_path / "tasks")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == (
        f"next: lmms-eval eval --model tokenreduce --include_path {tmp_path / 'tasks'} "
        "--tasks tokenreduce_embedded"
    )
    _, docs, _ = read(tmp_path / "tasks", "tokenreduce_embedded")
    assert len(docs) == 245
    wrong = subprocess.run(
        [sys.executable, "-m", "tokenreduce", "export-lmms", "--out", "x", "--set", "spli=full"],
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert "did you mean 'split'" in wrong.stderr
