"""Engines: every answer comes once, whatever happens to workers and to the process that writes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import torch

from tests.ablations.fake_run import ROOT, command, contents
from tests.ablations.fake_worker import SLOW, FakeWorkers, answer, grid, noted
from tests.ablations.killing import kill, kill_at_random
from tests.docs.blocks import blocks
from tokenreduce.engines import Engine, Failure, Status, engine, visible_devices
from tokenreduce.engines.work import Work
from tokenreduce.errors import ConfigError, WorkerError
from tokenreduce.records import Record, SampleRecord, TimingRecord
from tokenreduce.units import MakeWorker, Unit

POISON = ("model0-row1", "v1q1")


def pair(record: Record) -> tuple[str, str]:
    assert isinstance(record, SampleRecord)
    return record.cell, record.sample


def expected(units: list[Unit]) -> list[SampleRecord]:
    """Return the answers that a grid must have, each from its own pair."""
    found = [
        answer(key, sample) for unit in units for sample in unit.samples for key, _ in unit.cells
    ]
    return sorted(found, key=pair)


@dataclass
class Run:
    """What came of one run."""

    records: list[Record]
    failures: list[Failure]
    history: list[Status]

    def answers(self) -> list[SampleRecord]:
        return sorted((r for r in self.records if isinstance(r, SampleRecord)), key=pair)


def run(workers: Engine, units: list[Unit], make: MakeWorker) -> Run:
    records: list[Record] = []
    history: list[Status] = []
    failures = workers.run(units, make, records.append, history.append)
    return Run(records, failures, history)


@pytest.fixture
def two() -> Iterator[Engine]:
    with engine("local", 2, device="cpu") as workers:
        yield workers


@pytest.fixture
def inline() -> Iterator[Engine]:
    with engine("local", 0) as workers:
        yield workers


def test_processes_make_what_the_calling_process_makes(
    tmp_path: Path, two: Engine, inline: Engine
) -> None:
    units = grid()
    there, here = run(two, units, FakeWorkers(tmp_path)), run(inline, units, FakeWorkers(tmp_path))
    assert there.answers() == here.answers() == expected(units)
    assert there.failures == here.failures == []


def test_what_is_done_is_not_made_again(tmp_path: Path, inline: Engine) -> None:
    (unit, *_) = grid(questions=2, rows=2)
    done = frozenset({("model0-row0", "v0q1"), ("model0-row1", "v0q0")})
    made = run(inline, [replace(unit, done=done)], FakeWorkers(tmp_path))
    assert [pair(each) for each in made.answers()] == [
        ("model0-row0", "v0q0"),
        ("model0-row1", "v0q1"),
    ]


def test_a_killed_worker_costs_nothing_but_its_last_answer(tmp_path: Path, two: Engine) -> None:
    units = grid()
    deaths = ((*POISON, "kill", 2), ("model1-row2", "v3q0", "exit", 1))
    made = run(two, units, FakeWorkers(tmp_path, deaths=deaths))
    assert made.answers() == expected(units)
    assert made.failures == []
    assert len(noted(tmp_path, "death")) == 3
    # An answer that was made is not made again by the next worker: only the last one was lost.
    assert len(noted(tmp_path, "answer")) == len(expected(units))
    died = {process for process, _ in noted(tmp_path, "death")}
    assert len(died) == 3  # a fresh process each time


def test_a_question_that_kills_every_worker_fails_with_the_reason(
    tmp_path: Path, two: Engine
) -> None:
    units = grid()
    made = run(two, units, FakeWorkers(tmp_path, deaths=((*POISON, "kill", 99),)))
    failed = [each for each in made.answers() if each.error is not None]
    # row1 kills; row2 comes after it in the same unit.
    assert [pair(each) for each in failed] == [POISON, ("model0-row2", "v1q1")]
    for each in failed:
        assert each.error is not None
        assert "ended by SIGKILL" in each.error
        assert "tried 3 times" in each.error
        assert (each.prediction, each.correct) == (None, None)
        assert (each.digest, each.category, each.answer) == ("digest of v1q1", "colour", "yes")
    rest = [each for each in expected(units) if pair(each) not in set(map(pair, failed))]
    assert [each for each in made.answers() if each.error is None] == rest
    assert [failure.unit.samples[0].id for failure in made.failures] == ["v1q0"]
    assert len(noted(tmp_path, "death")) == 3


def test_attempts_count_only_in_a_row(tmp_path: Path, two: Engine) -> None:
    units = grid(models=1, videos=1, questions=4, rows=1)
    deaths = tuple(("model0-row0", f"v0q{number}", "kill", 1) for number in range(4))
    made = run(two, units, FakeWorkers(tmp_path, deaths=deaths))
    assert made.answers() == expected(units)
    assert len(noted(tmp_path, "death")) == 4


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_outside_a_question_is_tried_again(tmp_path: Path, workers: int) -> None:
    units = grid(models=1, videos=2)
    with engine("local", workers, device="cpu") as pool:
        made = run(pool, units, FakeWorkers(tmp_path, deaths=((*POISON, "raise", 99),)))
    failed = [each for each in made.answers() if each.error is not None]
    assert {each.error for each in failed} == {
        "RuntimeError: the card fell off the bus (tried 3 times)"
    }
    assert len(failed) == 2
    assert len(noted(tmp_path, "start")) == 3  # twice a fresh worker; the unit was the last one


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_raised_on_purpose_is_not_tried_again(tmp_path: Path, workers: int) -> None:
    units = grid(models=2, videos=2)
    with engine("local", workers, device="cpu") as pool:
        made = run(pool, units, FakeWorkers(tmp_path, deaths=((*POISON, "refuse", 99),)))
    failed = [each for each in made.answers() if each.error is not None]
    assert {each.error for each in failed} == {"this model cannot be loaded: give another one."}
    assert len(noted(tmp_path, "death")) == 1
    assert len(noted(tmp_path, "start")) == 1  # and the worker goes on


def test_timings_of_a_lost_worker_are_all_made_again(tmp_path: Path, two: Engine) -> None:
    (unit,) = grid(models=1, videos=1, questions=2, rows=1)
    timing = replace(unit, kind="timing")
    make = FakeWorkers(tmp_path, deaths=(("model0-row0", "v0q1", "kill", 1),))
    made = run(two, [timing], make)
    rounds = [(r.sample, r.round) for r in made.records if isinstance(r, TimingRecord)]
    assert rounds == [("v0q0", 0), ("v0q0", 1)] * 2 + [("v0q1", 0), ("v0q1", 1)]
    assert made.failures == []


def test_a_timing_that_fails_is_told_and_writes_nothing(tmp_path: Path, inline: Engine) -> None:
    (unit,) = grid(models=1, videos=1, questions=1, rows=1)
    make = FakeWorkers(tmp_path, deaths=(("model0-row0", "v0q0", "refuse", 1),))
    made = run(inline, [replace(unit, kind="timing")], make)
    assert [failure.reason for failure in made.failures] == [
        "this model cannot be loaded: give another one."
    ]
    assert made.records == []
    assert made.history[-1] == Status(total=1, done=1, failed=1, in_flight=0)


def test_a_worker_stays_with_its_model(tmp_path: Path, inline: Engine) -> None:
    by_video = sorted(grid(models=3, videos=4), key=lambda unit: unit.samples[0].id)
    assert [unit.setup.model for unit in by_video[:3]] == ["model0", "model1", "model2"]
    run(inline, by_video, FakeWorkers(tmp_path))
    assert [model for _, model in noted(tmp_path, "load")] == ["model0", "model1", "model2"]


def test_workers_share_out_the_models() -> None:
    work = Work(grid(models=2, videos=3), write=lambda record: None)
    first, second, third = (work.take(None) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert [task.unit.setup.model for task in (first, second, third)] == [
        "model0",
        "model1",
        "model0",
    ]
    same = work.take(second.model)
    assert same is not None
    assert same.unit.setup.model == "model1"
    assert work.waiting == 2


def test_progress_counts_every_answer(tmp_path: Path, two: Engine) -> None:
    units = grid()
    done = frozenset({("model0-row0", "v0q0")})
    units[0] = replace(units[0], done=done)
    make = FakeWorkers(tmp_path, deaths=((*POISON, "refuse", 1),), crowd=2)
    made = run(two, units, make)
    assert made.history[0] == Status(total=47, done=0, failed=0, in_flight=0)
    assert made.history[-1] == Status(total=47, done=47, failed=2, in_flight=0)
    assert [each.done for each in made.history] == sorted(each.done for each in made.history)
    # The first units of the two models, of five and of six answers, and later ones of six.
    assert max(each.in_flight for each in made.history) in (11, 12)
    assert all(each.done + each.in_flight <= 47 for each in made.history)


def test_alone_means_one_worker_at_a_time(tmp_path: Path, two: Engine) -> None:
    make = FakeWorkers(tmp_path, delay=0.01)
    (first, second) = grid(models=2, videos=1)
    run(two, grid(), replace(make, crowd=2))  # both workers are there, and idle
    before = len(noted(tmp_path, "answer"))
    records: list[Record] = []
    make = FakeWorkers(tmp_path)
    two.run([first, second], make, records.append, alone=True)
    assert len({process for process, _ in noted(tmp_path, "answer")[before:]}) == 1
    assert len(records) == 12


def test_workers_and_their_models_are_kept_from_run_to_run(tmp_path: Path, two: Engine) -> None:
    make = FakeWorkers(tmp_path)
    run(two, grid(models=1), make)
    run(two, grid(models=1), make)
    assert len(noted(tmp_path, "start")) == len(noted(tmp_path, "load")) <= 2
    other = FakeWorkers(tmp_path, delay=0.001)
    before = {process for process, _ in noted(tmp_path, "start")}
    run(two, grid(models=1), other)
    after = {process for process, _ in noted(tmp_path, "start")}
    assert len(after - before) >= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_what_the_writer_raises_ends_the_run_at_once(tmp_path: Path, workers: int) -> None:
    came: list[Record] = []

    def write(record: Record) -> None:
        came.append(record)
        if len(came) == 5:
            raise KeyboardInterrupt

    units = grid(models=1, videos=1, questions=4) + [slow(unit) for unit in grid(2, 1)[1:]]
    with engine("local", workers, device="cpu") as pool:
        with pytest.raises(KeyboardInterrupt):
            pool.run(units, FakeWorkers(tmp_path, delay=0.01), write)
        began = time.monotonic()
        assert psutil.Process().children() == []
    assert time.monotonic() - began < 1
    assert len(came) == 5


def slow(unit: Unit) -> Unit:
    return replace(unit, setup=replace(unit.setup, model=SLOW))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", r"no worker can be started \(RuntimeError: the card fell off the bus\)"),
        ("exit", r"no worker can be started \(the worker process ended with exit status 3\)"),
        ("refuse", r"^this model cannot be loaded: give another one\.$"),
    ],
)
def test_workers_that_do_not_start_are_an_error(tmp_path: Path, how: str, said: str) -> None:
    with engine("local", 2, device="cpu") as workers:
        with pytest.raises(WorkerError, match=said):
            run(workers, grid(), FakeWorkers(tmp_path, refuse_to_start=how))
        assert psutil.Process().children() == []
    assert len(noted(tmp_path, "start")) <= 6


def test_a_maker_that_a_fresh_process_cannot_import_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_here.py").write_text("def make(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    monkeypatch.setattr(sys, "path", sys.path[1:])
    with (
        engine("local", 1, device="cpu") as workers,
        pytest.raises(WorkerError, match="ModuleNotFoundError: No module named 'only_here'"),
    ):
        run(workers, grid(), only_here.make)


def test_each_worker_sees_its_device_and_its_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, GPU-b,GPU-c")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("tokenreduce.engines.local.cores", lambda: 6)
    with engine("local") as workers:
        assert workers.about() == ["2 worker processes on CUDA devices GPU-a, GPU-b"]
        run(workers, grid(), FakeWorkers(tmp_path, crowd=2))
    assert {said for _, said in noted(tmp_path, "CUDA_VISIBLE_DEVICES")} == {"GPU-a", "GPU-b"}
    assert {said for _, said in noted(tmp_path, "OMP_NUM_THREADS")} == {"3"}
    assert {said for _, said in noted(tmp_path, "torch")} == {"False"}  # a light start


def test_devices_are_those_that_torch_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices("auto") == ["0", "1"]
    assert visible_devices("cpu") == visible_devices("cuda:1") == ()


def test_the_number_of_workers_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("tokenreduce.engines.local.cores", lambda: 6)
    assert engine().about() == ["1 worker process"]
    assert engine(small=True).about() == ["4 worker processes"]
    monkeypatch.setattr("tokenreduce.engines.local.cores", lambda: 3)
    assert engine(small=True).about() == ["3 worker processes"]
    assert engine(workers=0).about() == ["1 worker in this process"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "rai"}, "there is no engine 'rai': did you mean 'ray'"),
        ({"workers": -1}, "-1 workers cannot be had from the engine 'local'"),
        ({"name": "ray", "workers": 0}, "0 workers cannot be had from the engine 'ray'"),
        ({"address": "auto"}, "'address' is a setting of the engine 'ray'"),
        ({"gpus": 0.5}, "'gpus' is a setting of the engine 'ray'"),
        ({"name": "ray", "gpus": 1.5}, "1.5 GPUs per worker cannot be shared out"),
    ],
)
def test_settings_that_do_not_go_together(asked: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        engine(**asked)  # type: ignore[arg-type]


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"install it with `pip install 'tokenreduce\[ray\]'`"):
        engine("ray")


def started(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start a run of its own whose workers are in the middle of an answer of a minute."""
    words = command(folder, "--delay", "60", *options)
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdout=pipe, stderr=pipe, process_group=0)
    until = time.monotonic() + 20
    while len(noted(folder / "notes", "load")) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def test_workers_end_when_their_driver_is_killed(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        assert len(psutil.Process(process.pid).children()) == 2
        assert kill(process, grace=2) == []


def test_an_interrupt_ends_everything_quietly(tmp_path: Path) -> None:
    with started(tmp_path) as process:
        workers = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT
    assert not any(each.is_running() for each in workers)
    assert out == b"begun\n"
    said = err.decode()
    assert said.count("Traceback") == 1  # of the driver, which does not catch it
    assert "Warning" not in said
    assert "leaked" not in said
    # What workers print is no part of the output.
    assert "a worker prints this" in said


def test_a_killed_driver_loses_nothing(tmp_path: Path) -> None:
    outcome = kill_at_random(
        lambda folder: command(folder, "--delay", "0.03"), tmp_path, kills=2, longest=1.5, seed=1
    )
    assert outcome.orphans == []
    for folder in outcome.folders:
        assert all_of(folder) == expected(grid())


def test_the_script_for_slurm_is_bash() -> None:
    page = (ROOT / "docs" / "guides" / "clusters.md").read_text()
    (script,) = [b.code for b in blocks(page) if b.code.startswith("#!/bin/bash")]
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")


def all_of(folder: Path) -> list[object]:
    found = contents(folder)
    return sorted((each for records in found.values() for each in records), key=pair)  # type: ignore[arg-type]


def sound(folder: Path) -> None:
    """See that a results file can be read and has no answer that is not right."""
    if not (folder / "notes").exists():
        return  # killed before it had begun
    right = {pair(each): each for each in expected(grid(videos=8))}
    for records in contents(folder).values():
        for each in records:
            assert isinstance(each, SampleRecord)
            assert each == right[pair(each)]


@pytest.mark.slow
def test_thirty_kills_change_nothing(tmp_path: Path) -> None:
    def words(folder: Path) -> list[str]:
        return command(folder, "--delay", "0.03", "--videos", "8")

    outcome = kill_at_random(words, tmp_path, kills=30, longest=2.0, seed=2026, look=sound)
    assert len(outcome.moments) == 30
    assert outcome.orphans == []
    whole = tmp_path / "whole"
    subprocess.run([*words(whole), "--workers", "0"], check=True)
    assert all_of(whole) == expected(grid(videos=8))
    for folder in outcome.folders:
        assert contents(folder) == contents(whole)
        assert database(folder) == database(whole)


def database(folder: Path) -> list[tuple[object, ...]]:
    """Return the whole table of answers as SQLite has it, its integrity checked."""
    import sqlite3

    with sqlite3.connect(folder / "results.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return db.execute("SELECT * FROM sample ORDER BY cell, sample").fetchall()
