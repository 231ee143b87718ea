"""Real lmms-eval runs our model on our questions, and our runs take its tasks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lmms.conftest import Run
from tests.lmms.test_msvd_qa import published
from tokenreduce.benchmark import Sample
from tokenreduce.config import written
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.inference import EncodedVideo, answer, load
from tokenreduce.lmms.export import export_task
from tokenreduce.lmms.msvd_qa import MsvdQa
from tokenreduce.reducer import Reducer
from tokenreduce.store import Store
from tokenreduce.video import load_video
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.vas import Vas

# Making the environment takes minutes where packages come slowly.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

QUESTIONS = 60
BENCHMARK = EmbeddedBenchmark()
ROWS: dict[str, tuple[Reducer, ...]] = {
    "none": (),
    "vas": (Vas(ratio=0.3),),
    "both": (Evs(ratio=0.25), Vas(ratio=0.5)),
}
ARGUMENTS = {
    "none": "pretrained=embedded",
    "vas": "pretrained=embedded,reducer=vas,reducer.ratio=0.3",
    "both": "config=both.yaml,row=both",
}
FILE = "reducers:\n  one: {use: vas}\n  both: [{use: evs, ratio: 0.25}, {use: vas, ratio: 0.5}]\n"


@dataclass
class Output:
    """What a run of lmms-eval left behind."""

    results: dict[str, Any]
    samples: list[dict[str, Any]]
    records: list[dict[str, Any]]
    printed: str


@pytest.fixture(scope="module")
def questions() -> list[Sample]:
    # Of clips of both lengths, so that batches are of several layouts.
    samples = BENCHMARK.samples()
    return samples[:: len(samples) // QUESTIONS][:QUESTIONS]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory, questions: list[Sample]) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    export_task(BENCHMARK, questions, folder, name="ours")
    msvd = MsvdQa(folder=published(folder / "MSVD-QA"), prompt="{question}")
    export_task(msvd, msvd.samples(), folder, name="msvd_qa")
    return folder


@pytest.fixture(scope="module")
def expected(questions: list[Sample]) -> dict[str, list[Any]]:
    """Return what the model answers in the environment of these tests."""
    loaded = load("embedded", device="cpu")
    found: dict[str, list[Any]] = {row: [] for row in ROWS}
    for sample in questions:
        video = load_video(sample.video, sample.frames or 0, loaded.checkpoint.processor.sampling)
        inputs = EncodedVideo(loaded, video.frames, video.timestamps).inputs(sample.question)
        for row, reducers in ROWS.items():
            found[row].append(answer(loaded, inputs, reducers))
    return found


def evaluate(run: Run, folder: Path, tasks: Path, arguments: str, *more: str) -> Output:
    (folder / "both.yaml").write_text(FILE)
    options = ["--tasks", "ours", "--include_path", str(tasks), "--output_path", "out"]
    command = ["eval", "--model", "tokenreduce", "--model_args", arguments, *options, *more]
    done = run("lmms-eval", *command, "--log_samples", "--device", "cpu", cwd=folder)

    def lines(pattern: str) -> list[dict[str, Any]]:
        (file,) = (folder / "out").rglob(pattern)
        return [json.loads(line) for line in file.read_text().splitlines()]

    (results,) = (folder / "out").rglob("*_results.json")
    samples = sorted(lines("*_samples_ours.jsonl"), key=lambda sample: sample["doc_id"])
    found = json.loads(results.read_text())
    return Output(found, samples, lines("*_tokenreduce.jsonl"), done.stdout)


@pytest.mark.parametrize(("row", "batch"), [("none", 1), ("vas", 1), ("vas", 8), ("both", 60)])
def test_every_answer_is_the_one_given_here(
    row: str,
    batch: int,
    lmms_run: Run,
    tasks: Path,
    tmp_path: Path,
    questions: list[Sample],
    expected: dict[str, list[Any]],
) -> None:
    output = evaluate(lmms_run, tmp_path, tasks, ARGUMENTS[row], "--batch_size", str(batch))
    known = expected[row]
    right = [
        BENCHMARK.matches(sample, said.text) for sample, said in zip(questions, known, strict=True)
    ]
    # Reduced, the model is wrong at times, or this would say little; unreduced it never is here.
    assert (0 < sum(right) < len(right)) or row == "none"
    assert [sample["filtered_resps"] for sample in output.samples] == [a.text for a in known]
    assert [sample["acc"] for sample in output.samples] == right
    assert output.results["results"]["ours"]["acc,none"] == pytest.approx(sum(right) / len(right))

    assert [record["doc_id"] for record in output.records] == list(range(len(questions)))
    assert [record["prediction"] for record in output.records] == [a.text for a in known]
    for record, said in zip(output.records, known, strict=True):
        assert (record["task"], record["error"]) == ("ours", None)
        assert tuple(record["tokens_per_layer"]) == said.trace.tokens_per_layer[0]
        assert record["img_memory"] == pytest.approx(said.trace.img_memory)
        assert record["flops_ratio"] == pytest.approx(said.trace.flops_ratio)
        assert 0 < record["ttft"] <= record["seconds"]
    assert max(record["batch"] for record in output.records) > 1 or batch == 1

    block = output.results["throughput"]
    for name in ("ttft", "kept_tokens", "img_memory", "flops_ratio"):
        mean = sum(record[name] for record in output.records) / len(output.records)
        assert block[f"avg_{name}"] == pytest.approx(mean)
        assert f"avg_{name}" in output.printed
    assert block["avg_failed_samples"] == 0


def test_compare_asks_its_task_and_answers_alike(
    lmms_run: Run,
    tasks: Path,
    tmp_path: Path,
    questions: list[Sample],
    expected: dict[str, list[Any]],
) -> None:
    write_tasks(tasks, tmp_path)
    rows = {row: list(map(written, ROWS[row])) for row in ("vas", "both")}
    # A judge's name in its metadata makes the plain rule, which is right for the same answers.
    benchmark = {"use": "lmms", "task": "judged", "include_path": str(tmp_path)}
    config = {"benchmark": benchmark, "device": "cpu", "reducers": rows}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(config))
    command = ["compare", "grid.yaml", "--out", "results"]
    done = lmms_run("tokenreduce", *command, cwd=tmp_path)
    assert "embedded on lmms, judged (rule: contains), 60 questions" in done.stdout
    with Store.read(tmp_path / "results") as store:
        records = {cell.label: store.records(key) for key, cell in store.cells()}
    for row, label in (("none", "keep_all"), ("vas", "vas"), ("both", "both")):
        found = {record.sample: record for record in records[label]}
        for number, (sample, said) in enumerate(zip(questions, expected[row], strict=True)):
            record = found[f"judged/{number}"]
            assert (record.prediction, record.error) == (said.text, None)
            assert record.correct == BENCHMARK.matches(sample, said.text)
            assert record.tokens_per_layer == said.trace.tokens_per_layer[0]


def test_two_processes_share_a_task_out(
    lmms_run: Run, tasks: Path, tmp_path: Path, expected: dict[str, list[Any]]
) -> None:
    options = ["--tasks", "ours", "--include_path", str(tasks), "--output_path", "out"]
    command = ["-m", "lmms_eval", "--model", "tokenreduce", "--model_args", ARGUMENTS["vas"]]
    more = ["--device", "cpu", "--limit", "13", "--log_samples"]
    lmms_run("torchrun", "--nproc-per-node", "2", *command, *options, *more, cwd=tmp_path)
    # Each process may have begun in another second, which names its file.
    files = list((tmp_path / "out").rglob("*_tokenreduce.jsonl"))
    records = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    said = {record["doc_id"]: record["prediction"] for record in records}
    assert len(records) == 13
    assert said == {number: expected["vas"][number].text for number in range(13)}


def test_msvd_qa_runs_and_records_go_where_they_are_told(
    lmms_run: Run, tasks: Path, tmp_path: Path
) -> None:
    # The embedded model knows none of its words: what counts is that the task runs.
    options = ["--tasks", "msvd_qa", "--include_path", str(tasks), "--device", "cpu"]
    arguments = f"pretrained=embedded,frames=4,records={tmp_path / 'mine' / 'records.jsonl'}"
    command = ["eval", "--model", "tokenreduce", "--model_args", arguments, *options]
    done = lmms_run("lmms-eval", *command, cwd=tmp_path)
    lines = (tmp_path / "mine" / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["doc_id"] for line in lines] == [0, 1, 2]
    assert "|msvd_qa|" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "pretrained=nowhere,reducer=vas,reducer.ratioo=1",
            "2 errors in the model's arguments",
        ),
        ("pretrained=embedded,reducer=vas,reducer.start_layer=99", "layer"),
        ("pretrained", "write NAME=VALUE"),
    ],
)
def test_wrong_arguments_are_one_clear_error(
    arguments: str, said: str, lmms_run: Run, tasks: Path, tmp_path: Path
) -> None:
    options = ["--tasks", "ours", "--include_path", str(tasks)]
    command = ["eval", "--model", "tokenreduce", "--model_args", arguments, *options]
    done = lmms_run("lmms-eval", *command, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("tokenreduce:")]
    assert said in line


# Tasks that must be refused, or scored by the plain rule, made of the exported one.
TASKS: dict[str, dict[str, Any]] = {
    "choices": {"output_type": "multiple_choice", "doc_to_choice": ["a", "b"]},
    "judged": {"metadata": {"version": 0.0, "gpt_eval_model_name": "gpt"}},
    "graded": {"process_results": "graded", "metric_list": "half"},
    "filtered": {"filter_list": "upper"},
    "pictures": {"doc_to_messages": "pictures"},
    "ending": {"doc_to_messages": "ending"},
    "sent_in": {"metric_list": "submission"},
    "guessed": {"process_results": "guessed"},
    "averaged": {"process_results": "averaged", "metric_list": "mean of seven"},
}

FUNCTIONS = """
import random
from ours_utils import task

def graded(doc, results):
    return {"half": 0.5}

def strict(doc, results):
    return {"acc": float(results[0] == doc["answer"].upper())}

def guessed(doc, results):
    # As tasks do of answers in which they find no choice.
    return {"acc": float(results[0] == doc["answer"] or random.random() < 0.5)}

def averaged(doc, results):
    return {"seventh": results[0] == doc["answer"], "submission": {}}

def seventh(results, args):
    return 100 * sum(results) / len(results) / 7

def pictures(doc):
    words = {"type": "text", "text": "what is this?"}
    return [{"role": "user", "content": [{"type": "image", "url": "a.png"}, words]}]

def ending(doc):
    raise SystemExit("video path:a.mp4 does not exist")
"""

SCRIPT = """
import json, os, sys
from tokenreduce.config import Classes, parse_benchmark
from tokenreduce.errors import TokenReduceError
from tokenreduce.plugins import load_plugins
from tokenreduce.problems import Report

registry = load_plugins().registry
classes = Classes(registry.reducers, registry.benchmarks)
for given in json.loads(sys.argv[1]):
    if given.pop("key", False):
        os.environ["OPENAI_API_KEY"] = "a key"
    report = Report()
    benchmark = parse_benchmark(given, classes, report)
    report.raise_if_any("the test")
    try:
        samples = benchmark.samples()
        said = [
            [s.id, str(s.video), s.question, s.answer, s.category, s.frames,
             benchmark.matches(s, s.answer), benchmark.matches(s, "it is " + s.answer),
             benchmark.matches(s, "nothing")]
            for s in samples
        ]
        print(json.dumps(said))
    except TokenReduceError as error:
        print(json.dumps(str(error)))
"""


def write_tasks(tasks: Path, folder: Path) -> None:
    """Write variants of the exported task."""
    plain = (tasks / "ours.yaml").read_text()
    settings, _, functions = plain.partition("doc_to_messages:")
    (folder / "ours_utils.py").write_text((tasks / "ours_utils.py").read_text())
    (folder / "functions.py").write_text(
        f"import sys\nsys.path.insert(0, {str(folder)!r})\n{FUNCTIONS}"
    )
    changes = {
        "graded": {"metric_list": [{"metric": "half", "aggregation": "mean"}]},
        "sent_in": {"metric_list": [{"metric": "submission", "aggregation": "mean"}]},
        "averaged": {"metric_list": [{"metric": "submission", "aggregation": "mean"}]},
        "filtered": {
            "filter_list": [
                {"name": "up", "filter": [{"function": "uppercase"}, {"function": "take_first"}]}
            ]
        },
    }
    named = {
        "graded": ("process_results", "graded"),
        "filtered": ("process_results", "strict"),
        "pictures": ("doc_to_messages", "pictures"),
        "ending": ("doc_to_messages", "ending"),
        "guessed": ("process_results", "guessed"),
        "averaged": ("process_results", "averaged"),
    }
    for name, change in TASKS.items():
        made = {**yaml.safe_load(settings), **changes.get(name, change), "task": name}
        lines = f"doc_to_messages:{functions}".splitlines()
        if name in named:
            key, function = named[name]
            lines = [
                f"{key}: !function functions.{function}" if line.startswith(f"{key}:") else line
                for line in lines
            ]
        text = yaml.safe_dump(made) + "\n".join(lines) + "\n"
        if name == "averaged":
            mean = "- metric: seventh\n  aggregation: !function functions.seventh\n"
            text = text.replace("metric_list:\n", f"metric_list:\n{mean}")
        (folder / f"{name}.yaml").write_text(text)


def test_tasks_of_lmms_eval_in_our_runs(
    lmms_run: Run, tasks: Path, tmp_path: Path, questions: list[Sample]
) -> None:
    write_tasks(tasks, tmp_path)
    given: list[dict[str, Any]] = [
        {"use": "lmms", "task": "ours", "include_path": str(tasks)},
        *({"use": "lmms", "task": name, "include_path": str(tmp_path)} for name in TASKS),
        {"use": "lmms", "task": "judged", "include_path": str(tmp_path), "rule": "task"},
        {
            "use": "lmms",
            "task": "judged",
            "include_path": str(tmp_path),
            "rule": "task",
            "metric": "acc",
            "key": True,
        },
        {"use": "lmms", "task": "videomm"},
        {"use": "lmms", "task": "ours", "include_path": str(tasks), "metric": "accc"},
        {"use": "lmms", "task": "egoschema_subset"},
    ]
    done = lmms_run("python", "-c", SCRIPT, json.dumps(given), cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line[:1] in '["']
    names = ["ours", *TASKS, "no key", "key", "unknown", "metric", "data"]
    found = dict(zip(names, lines, strict=True))
    known = [
        [f"ours/{number}", str(s.video.resolve()), s.question, s.answer, "ours", s.frames]
        for number, s in enumerate(questions)
    ]
    assert [row[:6] for row in found["ours"]] == known
    assert {tuple(row[6:]) for row in found["ours"]} == {(True, False, False)}
    assert {tuple(row[6:]) for row in found["key"]} == {(True, False, False)}
    assert {row[4] for row in found["key"]} == {"judged"}
    assert "'judged' is scored by gpt, for which OPENAI_API_KEY must be set" in found["no key"]
    # Contained in the answer: a judge is not asked unless that is said.
    assert {tuple(row[6:]) for row in found["judged"]} == {(True, True, False)}
    assert {row[4] for row in found["judged"]} == {"judged (rule: contains)"}
    # Its filter makes answers upper case, which its scoring wants.
    assert {tuple(row[6:]) for row in found["filtered"]} == {(True, False, False)}
    assert {tuple(row[6:]) for row in found["averaged"]} == {(True, False, False)}
    # Right answers are right; whether a guess is does not change from one time to the next.
    assert all(row[6] for row in found["guessed"])
    assert {row[7] for row in found["guessed"]} == {True, False}
    assert all(row[7] == row[8] for row in found["guessed"])
    assert "'sent_in' has no right answers" in found["sent_in"]
    assert "'choices' is of the type multiple_choice" in found["choices"]
    assert "'graded' scores an answer with 0.5 by 'half', and the right one" in found["graded"]
    assert "'pictures' shows images" in found["pictures"]
    assert "video path:a.mp4 does not exist" in found["ending"]
    assert "no task 'videomm': the closest are videomme" in found["unknown"]
    assert "no metric 'accc': did you mean 'acc'" in found["metric"]
    assert "'egoschema_subset'" in found["data"]
    assert "its data must be on this machine" in found["data"]
