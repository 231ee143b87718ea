"""Every code block of the documentation does what it says, or says why it is not run."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import sys
import tomllib
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from typer.main import get_command

import tokenreduce
from tests.bench.conftest import MINI
from tests.docs.blocks import PAGES, ROOT, Block, blocks, page_id
from tests.docs.results import write_results
from tokenreduce import inference, runner, video
from tokenreduce.ablations import dry_run, run
from tokenreduce.ablations.dry_run import DryRun, SetupCost
from tokenreduce.ablations.grid import parse_grid
from tokenreduce.adapter import Processor
from tokenreduce.bench import runner as bench_runner
from tokenreduce.bench.result import Result
from tokenreduce.bench.shapes import SHAPES, Grid
from tokenreduce.benchmark import Benchmark
from tokenreduce.cli import app
from tokenreduce.config import Classes, parse_config
from tokenreduce.embedded import MODEL_DIR
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.plugins import load_plugins
from tokenreduce.problems import sweeps
from tokenreduce.reducer import Reducer
from tokenreduce.report import Report
from tokenreduce.runner import ClipAnswer
from tokenreduce.testing import write_clip
from tokenreduce.testing.tiny import single, tiny_onevision

LANGUAGES = {"python", "console", "yaml", "toml", "json", "text"}
CONFIGURATION = ROOT / "docs" / "configuration.md"
WORK = ("run", "compare", "bench", "ablate", "paper")  # commands that compute


def ids(pages: list[Path]) -> list[Any]:
    return [pytest.param(page, id=page_id(page)) for page in pages]


def with_language(*languages: str) -> list[Path]:
    return [p for p in PAGES if any(b.language in languages for b in blocks(p.read_text()))]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder that has what the pages speak of; leave the environment as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    write_clip(tmp_path / "clip.mp4", frames=16)
    write_results(tmp_path / "my-results")
    (tmp_path / "my-checkpoint").symlink_to(MODEL_DIR)
    line = {"video": "clip.mp4", "question": "how many rings are there ?", "answer": "3"}
    (tmp_path / "my-questions.jsonl").write_text(json.dumps(line))
    config = next(b for b in blocks(CONFIGURATION.read_text()) if b.language == "yaml")
    (tmp_path / "my.yaml").write_text(config.code)
    grid = {"limit": 2, "timing": {"samples": 1, "repeats": 1}, "reducers": {"fastv": None}}
    (tmp_path / "grid.yaml").write_text(json.dumps(grid))


@pytest.fixture
def page_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a module that already has what every page may use."""
    module = types.ModuleType("a_page")
    # pydantic looks up annotations there.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    model = tiny_onevision(layers=14)
    vars(module).update(tokenreduce=tokenreduce, torch=torch, model=model, inputs=single(frames=8))
    return module


@pytest.mark.parametrize("page", ids(PAGES))
def test_blocks_are_of_a_language_that_is_checked(page: Path) -> None:
    for block in blocks(page.read_text()):
        assert block.language in LANGUAGES, f"line {block.line}"


@pytest.mark.parametrize("page", ids(PAGES))
def test_reasons_stand_before_blocks(page: Path) -> None:
    text = page.read_text()
    assert text.count("<!-- not run:") == sum(b.not_run is not None for b in blocks(text))


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("page", ids(with_language("python", "yaml", "toml", "json")))
def test_code_runs(page: Path, page_module: types.ModuleType) -> None:
    for block in blocks(page.read_text()):
        if block.not_run is not None:
            continue
        if block.language == "python":
            # The lines in front make a traceback point into the page.
            source = "\n" * (block.line - 1) + block.code
            exec(compile(source, str(page), "exec"), vars(page_module))
        elif block.language == "yaml":
            check_configuration(block, page_module)
        elif block.language == "toml":
            tomllib.loads(block.code)
        elif block.language == "json":
            json.loads(block.code)
    for check in cases_of(page_module):
        check()


def check_configuration(block: Block, module: types.ModuleType) -> None:
    """Check YAML as its command would, with the classes that the page has defined so far."""
    found = [each for each in vars(module).values() if isinstance(each, type)]
    own = [each for each in found if each.__module__ == module.__name__]
    registry = load_plugins(entry_points=[]).registry
    classes = Classes(
        {**registry.reducers, **{c.name: c for c in own if issubclass(c, Reducer)}},
        {**registry.benchmarks, **{c.name: c for c in own if issubclass(c, Benchmark)}},
    )
    data = yaml.safe_load(block.code) or {}
    parse = parse_grid if any(sweeps(data)) else parse_config
    parse({"reducers": {"keep_all": {}}, **data}, classes, f"line {block.line}")


def cases_of(module: types.ModuleType) -> Iterator[Any]:
    """Yield the cases of the conformance tests that a page defines."""
    for name, function in vars(module).items():
        if name.startswith("test_"):
            (mark,) = function.pytestmark
            assert mark.args[0] == "check"
            yield from (case.values[0] for case in mark.args[1])


def commands(block: Block) -> Iterator[list[str]]:
    """Yield the words of each `tokenreduce` command of a console block."""
    for line in block.code.splitlines():
        parts = itertools.groupby(shlex.split(line, comments=True), key=lambda w: w in ("&&", "|"))
        for joined, words in parts:
            command = list(itertools.takewhile(lambda word: word != ">", words))
            if not joined and command[:1] == ["tokenreduce"]:
                yield command[1:]


@pytest.mark.parametrize("page", ids(with_language("console")))
def test_other_programs_say_why_they_are_not_run(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language == "console" and block.not_run is None:
            for line in block.code.splitlines():
                assert line.startswith("tokenreduce "), f"line {block.line}: {line}"


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put results in the place of the work; all that is asked for is checked before it."""
    known = ClipAnswer("a", "b", "m", "a", 2, (1,), 1.0, 1.0, 1.0, SimpleNamespace(bad_packets=0))
    monkeypatch.setattr(video, "check_video", lambda *_: None)
    monkeypatch.setattr(video, "load_video", lambda *_: None)
    loaded = SimpleNamespace(name="m", checkpoint=SimpleNamespace(processor=Processor))
    monkeypatch.setattr(inference, "load_model", lambda *_, **__: loaded)
    monkeypatch.setattr(runner, "answer_clip", lambda *_, **__: known)
    monkeypatch.setattr(runner, "compare", lambda *_, **__: Report("m", "b", (), ()))
    result = Result("m", "", {}, None, 1, 2, {}, {}, None, None, ())
    monkeypatch.setattr(bench_runner, "run_bench", lambda *_: result)
    cost = SetupCost({"model": "m", "benchmark": {"use": "b"}, "frames": None}, 1, (), 1, 1)
    monkeypatch.setattr(dry_run, "dry_run", lambda *_: DryRun((cost,)))
    results = SimpleNamespace(tables=(), notes=(), failed=0, document=dict)
    monkeypatch.setattr(run, "ablate", lambda *_, **__: results)


@pytest.mark.usefixtures("desk", "no_work")
@pytest.mark.parametrize("page", ids(with_language("console")))
def test_commands_are_understood(page: Path) -> None:
    for block in blocks(page.read_text()):
        if block.language == "console":
            for words in commands(block):
                check_words(words)
                if block.not_run is None:
                    invoke(words)


@pytest.mark.slow
@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("page", ids(with_language("console")))
def test_commands_do_their_work(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, shape in SHAPES.items():
        small = replace(shape.text, hidden=16, intermediate=16, heads=2, key_heads=1, head_dim=8)
        grid = Grid(4, 2, 2)
        monkeypatch.setitem(SHAPES, name, replace(shape, text=small, tower=MINI.tower, grid=grid))
    few = EmbeddedBenchmark.samples
    monkeypatch.setattr(EmbeddedBenchmark, "samples", lambda self, tell=None: few(self, tell)[:2])
    for block in blocks(page.read_text()):
        if block.language == "console" and block.not_run is None:
            for words in commands(block):
                if words[0] in WORK:
                    invoke(words)


def invoke(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(words, prog_name="tokenreduce")
    assert not ended.value.code, words


@pytest.mark.parametrize("page", ids(PAGES))
def test_commands_within_sentences_exist(page: Path) -> None:
    for said in re.findall(r"(?<!`)`tokenreduce ([^`\n]+)`(?!`)", page.read_text()):
        check_words(shlex.split(said))


def check_words(words: list[str]) -> None:
    """Check that a command line names a command and options that there are."""
    group: Any = get_command(app)
    command = next((group.commands[word] for word in words if word in group.commands), None)
    assert command is not None or words[0].startswith("-"), words
    known = {"-h", "--help"} | {option for each in group.params for option in each.opts}
    known |= {option for each in (command.params if command else ()) for option in each.opts}
    assert {word for word in words if re.match(r"-{1,2}[a-z]", word)} <= known, words
