"""The scripts of `make bench` and of the GPU run, on documents written by hand."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.main import get_command

from tests.bench.conftest import request_for
from tokenreduce.bench.runner import run_bench
from tokenreduce.cli import app
from tokenreduce.plugins import load_plugins

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
TARGETS: dict[str, Any] = tomllib.loads((BENCHMARKS / "targets.toml").read_text())


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


CHECK, PAPER_TABLES = script("check_targets"), script("paper_tables")


def row(label: str, ideal: float | None, speedup: float, **numbers: Any) -> dict[str, Any]:
    return {"label": label, "ideal_speedup": ideal, "speedup": speedup, **numbers}


def verdicts(target: dict[str, Any], documents: dict[str, Any]) -> list[tuple[float | None, bool]]:
    found = CHECK.figures([{"name": "t", **target}], documents)
    return [(figure.value, figure.met) for figure in found]


def test_ratios_to_the_model() -> None:
    rows = [
        {"label": "model", "prefill": {"minimum": 2.0}, "peak_memory": 100, "decode": None},
        {"label": "vas", "prefill": {"minimum": 1.0}, "peak_memory": 103, "decode": None},
    ]
    documents = {"a": {"rows": rows}}
    target = {"runs": ["a"], "rows": ["vas"], "at_most": 1.02}
    assert verdicts({**target, "measure": "prefill_of_model"}, documents) == [(0.5, True)]
    assert verdicts({**target, "measure": "memory_of_model"}, documents) == [(1.03, False)]
    assert verdicts({**target, "measure": "decode_of_model"}, documents) == [(None, False)]


def test_bounds_and_missing_runs() -> None:
    documents = {"a": {"rows": [row("vas", 2.0, 1.8, efficiency=0.9)]}}
    target = {"runs": ["a", "b"], "rows": ["vas"], "measure": "efficiency", "at_least": 0.9}
    assert verdicts(target, documents) == [(0.9, True), (None, False)]
    assert verdicts({**target, "at_least": 0.91}, documents)[0] == (0.9, False)


def test_growth_is_relative_to_the_small_run() -> None:
    documents = {
        "small": {"rows": [{"label": "tome", "overhead": 0.2}]},
        "large": {"rows": [{"label": "tome", "overhead": 0.05}]},
    }
    target = {"runs": ["large"], "rows": ["tome"], "measure": "overhead", "at_most": 1.0}
    assert verdicts({**target, "relative_to": "small"}, documents) == [(0.25, True)]


@pytest.mark.parametrize(
    ("rows", "wrong"),
    [
        ([("a", 2.0, 1.9), ("b", 1.5, 1.4), ("c", 1.0, 1.0)], 0),
        ([("a", 2.0, 1.3), ("b", 1.5, 1.4), ("c", 1.0, 1.0)], 1),
        ([("a", 2.0, 0.9), ("b", 1.5, 1.4), ("c", 1.0, 1.0)], 2),
        ([("a", 1.52, 1.3), ("b", 1.5, 1.4), ("c", 1.0, 1.0)], 0),  # too near to have an order
    ],
)
def test_the_order_of_methods(rows: list[tuple[str, float, float]], wrong: int) -> None:
    documents = {"r": {"rows": [row("model", None, 1.0), *(row(*each) for each in rows)]}}
    target = {"runs": ["r"], "rows": ["model"], "measure": "pairs_out_of_order", "at_most": 0}
    assert verdicts(target, documents) == [(wrong, wrong == 0)]


def test_the_script_prints_a_verdict_for_each_figure(tmp_path: Path) -> None:
    for run in TARGETS["run"]:
        (tmp_path / f"{run['name']}.json").write_text(json.dumps({"rows": []}))
    command = [sys.executable, str(BENCHMARKS / "check_targets.py"), "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    count = sum(len(target["runs"]) * len(target["rows"]) for target in TARGETS["target"])
    assert done.returncode == 1
    assert done.stdout.count("not measured") == count
    assert f"0 of {count} figures met" in done.stdout


def request_of(arguments: str) -> Any:
    """Read a run's words as the command does."""
    group: Any = get_command(app)
    command = group.commands["bench"]
    values = command.make_context("bench", shlex.split(arguments)).params
    options = {k: values[k] for k in ("model", "frames", "repeats", "warmup", "decode")}
    labels, overrides = values["reducers"] or (), tuple(values["overrides"] or ())
    options["without"] = values["without"] or ()
    return request_for(options.pop("model"), *labels, overrides=overrides, **options)


def test_every_target_can_be_measured() -> None:
    requests = {run["name"]: request_of(run["arguments"]) for run in TARGETS["run"]}
    parts = {"memory_of_model": "memory", "overhead": "phases", "decode_of_model": "decode"}
    for target in TARGETS["target"]:
        assert target["measure"] in CHECK.MEASURES
        assert ("at_least" in target) != ("at_most" in target)
        for run in [*target["runs"], *([target["relative_to"]] if "relative_to" in target else [])]:
            assert set(target["rows"]) <= {"model", *requests[run].rows}
            settings = requests[run].settings
            assert parts.get(target["measure"]) not in settings.without
            timed = target["measure"] not in ("memory_of_model", "overhead")
            assert settings.repeats > 0 or not timed


def test_runs_have_the_counts_of_their_names() -> None:
    for run in TARGETS["run"]:
        request = request_of(run["arguments"])
        count = re.search(r"\d+k?", run["name"])
        assert count is not None
        tokens = int(count[0].rstrip("k")) * (1024 if count[0].endswith("k") else 1)
        assert request.grid.tokens == tokens
        if run["name"] in ("1568", "2304", "4608"):
            assert (request.shape.text.layers, request.shape.text.hidden) == (32, 1024)
            merged = {"1568": 36, "2304": 48, "4608": 120}[run["name"]]
            assert round(request.rows["tome"][0].r * tokens) == merged


def test_the_gpu_script_asks_for_rows_that_there_are() -> None:
    text = (BENCHMARKS / "gpu.sh").read_text().replace("\\\n", " ")
    found = re.findall(r'^bench (\S+) (\S+)(.*) "\$@"$', text, re.MULTILINE)
    assert len(found) == 5
    published = 0
    for _, model, words in found:
        published += len(request_of(f"{model} {words}").published)
    # Tables 1 (12 rows), 2 (2), 3 (3), 4 (8) and 6 (1).
    assert published == 26
    subprocess.run(["sh", "-n", str(BENCHMARKS / "gpu.sh")], check=True)


def test_times_beside_the_papers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paper = {"table": 1, "ttft_speedup": 1.87, "img_memory": 0.477}
    own = {"ttft_speedup": 1.9, "ttft_speedup_with_vision": 1.5, "img_memory": 0.49}
    rows = [{**row("vas", 2.0, 1.9), **own, "paper": paper}, {"paper": None}]
    document = {"model": "llama-7b", "paper_model": "PLLaVA-7B", "rows": rows}
    (tmp_path / "a.json").write_text(json.dumps(document))
    monkeypatch.setattr(sys, "argv", ["paper_tables.py", str(tmp_path)])
    for _ in range(2):  # its own document is no bench
        PAPER_TABLES.main()
    (written,) = json.loads((tmp_path / "paper.json").read_text())
    assert (written["ttft_speedup"], written["paper_ttft_speedup"]) == (1.9, 1.87)
    assert re.search(r"1  PLLaVA-7B +vas +1\.900 +1\.500 +2\.000 +1\.870", capsys.readouterr().out)


def test_the_page_gets_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a real document of a small bench, under the name of a run."""
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- measured: speeds -->\n<!-- end: speeds -->\nb\n")
    request = request_for(
        "growth",
        *("vas", "fastv"),
        frames=1,
        grid="2x2",
        text=4,
        repeats=1,
        decode=1,
        device="cpu",
        without=["eager", "memory"],
    )
    result = run_bench(request, load_plugins(entry_points=[]))
    (tmp_path / "4608.json").write_text(result.to_json())
    monkeypatch.setattr(sys, "argv", ["performance_page.py", str(tmp_path), str(page)])
    script("performance_page").main()
    text = page.read_text()
    for row in result.rows:
        assert row.prefill is not None
        assert f"| {row.label} |" in text
        assert f"{row.prefill['minimum'] * 1000:.0f} ms" in text
    assert text.startswith("a\n")
    assert text.endswith("\nb\n")
    picture = (tmp_path / "waterfall.svg").read_text()
    assert "vas: " in picture
    assert "fastv: " not in picture


def test_the_worst_figure_stands_for_a_run() -> None:
    page = script("performance_page")
    rows = [
        {"label": "vas", "efficiency": 0.99},
        {"label": "fastv", "efficiency": 0.8},
        {"label": "vcc", "efficiency": 1.2},
    ]
    lines = list(page.targets({"1568": {"rows": rows}}))
    (line,) = [each for each in lines if each.startswith("| efficiency at") and "1568" in each]
    assert line.endswith("| >= 0.93 | 1568 | 0.800 (fastv) | missed |")
    assert lines[-1].endswith("| <= 1.05 | memory-64k |  | open: 0 of 1 rows measured |")


def test_a_target_is_met_only_if_every_row_was_measured() -> None:
    page = script("performance_page")
    rows = [{"label": "vas", "efficiency": 1.0}, {"label": "fastv", "efficiency": 1.1}]
    lines = list(page.targets({"1568": {"rows": rows}}))
    (line,) = [each for each in lines if each.startswith("| efficiency at") and "1568" in each]
    assert line.endswith("| 1.000 (vas) | open: 2 of 6 rows measured |")
