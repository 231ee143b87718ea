"""Units are announced to the worker that does them next, and their videos decoded meanwhile."""

from __future__ import annotations

import pickle
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tokenreduce
from tests.ablations.fake_worker import FakeWorkers, grid, noted
from tests.ablations.test_engines import POISON, expected, run
from tokenreduce import clips
from tokenreduce.cells import Cell, Setup
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.engines import engine
from tokenreduce.engines.ray import RayWorker
from tokenreduce.engines.work import Work
from tokenreduce.fingerprint import code_digest
from tokenreduce.plugins import load_plugins
from tokenreduce.store import Store
from tokenreduce.units import Unit
from tokenreduce.video import VideoPass
from tokenreduce.worker import ModelWorker

SETUP = Setup("embedded", {"use": "embedded"}, device="cpu", max_new_tokens=1)


@pytest.mark.parametrize("workers", [0, 1])
def test_each_next_unit_is_announced_while_the_one_before_is_done(
    tmp_path: Path, workers: int
) -> None:
    units = grid(models=2, videos=3, questions=1, rows=1)
    with engine("local", workers, device="cpu") as pool:
        made = run(pool, units, FakeWorkers(tmp_path, delay=0.05))
    assert made.answers() == expected(units)
    # The first unit of a model is not announced: it is not known who does it.
    assert [said for _, said in noted(tmp_path, "ahead")] == ["v1q0", "v2q0"] * 2
    told = [(kind, said) for kind, said in all_notes(tmp_path) if kind in ("ahead", "answer")]
    assert told.index(("ahead", "v1q0")) < told.index(("answer", "model0-row0 v0q0"))
    assert len(noted(tmp_path, "close")) == 1


def all_notes(folder: Path) -> list[tuple[str, str]]:
    files = sorted(folder.glob("*.note"), key=lambda each: int(each.stem.split("-")[0]))
    notes = [file.read_text().split("\n", 2) for file in files]
    return [(kind, said) for kind, _, said in notes]


def test_an_idle_worker_takes_what_is_reserved_for_a_busy_one() -> None:
    work = Work(grid(models=1, videos=3), write=lambda record: None)
    busy = work.take(None)
    assert busy is not None
    second = work.reserve(busy.model)
    assert second is not None
    assert work.waiting == 2
    third = work.take(busy.model)  # what is reserved for another one comes last
    assert third is not None
    assert [task.unit.samples[0].id for task in (busy, second, third)] == ["v0q0", "v1q0", "v2q0"]
    assert work.reserve(busy.model) is None
    assert work.take(None) is second
    assert work.waiting == 0


def test_a_reserved_unit_is_given_to_its_worker_even_behind_others() -> None:
    work = Work(grid(models=1, videos=4), write=lambda record: None)
    first = work.take(None)
    assert first is not None
    reserved = work.reserve(first.model)
    assert reserved is not None
    work.fail(first, "lost")  # waits again, before all others
    assert work.take(first.model, reserved) is reserved
    assert work.take(first.model) is first


def test_no_worker_is_idle_at_the_end(tmp_path: Path) -> None:
    # Two units of one model for two workers: the first worker may not keep both.
    units = grid(models=1, videos=2)
    with engine("local", 2, device="cpu") as two:
        made = run(two, units, FakeWorkers(tmp_path, crowd=2))
    assert made.answers() == expected(units)
    assert len({process for process, _ in noted(tmp_path, "answer")}) == 2


def test_what_a_lost_worker_had_reserved_is_done_by_another_one(tmp_path: Path) -> None:
    units = grid(models=1, videos=4)
    deaths = (("model0-row1", "v0q1", "kill", 2), ("model0-row2", "v2q0", "raise", 1))
    with engine("local", 2, device="cpu") as two:
        made = run(two, units, FakeWorkers(tmp_path, delay=0.01, deaths=deaths))
    assert made.answers() == expected(units)
    assert made.failures == []
    assert len(noted(tmp_path, "answer")) == len(expected(units))


def test_beside_what_is_timed_nothing_is_announced(tmp_path: Path) -> None:
    units = [replace(unit, kind="timing") for unit in grid(models=1, videos=3)]
    with engine("local", 0) as inline:
        inline.run(units, FakeWorkers(tmp_path), lambda record: None, alone=True)
    assert noted(tmp_path, "ahead") == []


def test_a_question_that_is_refused_does_not_cost_what_was_announced(tmp_path: Path) -> None:
    units = grid(models=1, videos=3)
    with engine("local", 1, device="cpu") as pool:
        made = run(pool, units, FakeWorkers(tmp_path, deaths=((*POISON, "refuse", 1),)))
    assert {each.sample for each in made.answers() if each.error} == {"v1q1"}
    assert [said for _, said in noted(tmp_path, "ahead")] == ["v1q0", "v2q0"]


class Decoding:
    """Notes which thread decodes which file for how many requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.passes: list[tuple[Path, int, bool]] = []
        noted = self.passes

        class Watched(VideoPass):
            def __init__(self, path: Path, requests: Any, *rest: Any) -> None:
                main = threading.current_thread() is threading.main_thread()
                noted.append((path, len(requests), main))
                super().__init__(path, requests, *rest)

        monkeypatch.setattr(clips, "VideoPass", Watched)


@pytest.fixture
def decoding(monkeypatch: pytest.MonkeyPatch) -> Decoding:
    return Decoding(monkeypatch)


def units_of(count: int, shares: tuple[float, ...] = (1.0,)) -> list[Unit]:
    by_video = {sample.video: sample for sample in EmbeddedBenchmark().samples()}
    reducers = ({"use": "keep_all"},)
    cells = tuple(
        (f"cell{share}", Cell(SETUP, f"{share}", "row", reducers, frames_share=share))
        for share in shares
    )
    return [Unit("answers", SETUP, (s,), cells) for s in list(by_video.values())[:count]]


def test_videos_are_decoded_once_by_another_thread(decoding: Decoding) -> None:
    units = units_of(4, (1.0, 0.5))
    worker = ModelWorker(load_plugins(entry_points=[]).registry)
    records: list[Any] = []
    with engine("local", 0) as inline:
        inline.run(units, lambda: worker, records.append)
        assert [(path, count) for path, count, _ in decoding.passes] == [
            (unit.samples[0].video, 2) for unit in units
        ]
        assert [main for _, _, main in decoding.passes] == [True, False, False, False]
        assert worker.clips.held == 0
    assert [each.error for each in records] == [None] * 8
    assert not [each for each in threading.enumerate() if each.name == "decoding ahead"]


def test_answers_are_the_same_with_and_without(decoding: Decoding) -> None:
    units = units_of(3)
    registry = load_plugins(entry_points=[]).registry
    made = []
    for ahead in (0, 2**30):
        records: list[Any] = []
        with engine("local", 0) as inline:
            inline.run(units, lambda: ModelWorker(registry, ahead=ahead), records.append)  # noqa: B023 - called at once
        made.append(records)
    assert made[0] == made[1]
    assert [main for _, _, main in decoding.passes] == [True] * 3 + [True, False, False]


def test_an_announcement_is_taken_back(decoding: Decoding) -> None:
    first, second, third = units_of(3)
    worker = ModelWorker(load_plugins(entry_points=[]).registry)
    worker.ahead(second)
    worker.ahead(None)
    worker.ahead(third)  # nothing is known of the model yet
    assert decoding.passes == []
    for unit in (first, third):
        list(worker.run(unit))
    worker.close()
    assert [path for path, _, _ in decoding.passes] == [
        first.samples[0].video,
        third.samples[0].video,
    ]


def test_an_interrupt_leaves_no_thread(decoding: Decoding) -> None:
    registry = load_plugins(entry_points=[]).registry

    def write(record: Any) -> None:
        raise KeyboardInterrupt

    with (
        engine("local", 0) as inline,
        pytest.raises(KeyboardInterrupt),
    ):
        inline.run(units_of(3), lambda: ModelWorker(registry), write)
    assert not [each for each in threading.enumerate() if each.name == "decoding ahead"]


def test_a_node_with_another_code_is_refused_by_name(tmp_path: Path) -> None:
    make = pickle.dumps(FakeWorkers(tmp_path))
    event = RayWorker().start(make, "0" * 32)
    assert event.kind == "refused"
    assert f"on the node '{socket.gethostname()}' is not that" in event.reason
    assert noted(tmp_path, "start") == []
    assert RayWorker().start(make, code_digest()).kind == "ready"


def test_paths_go_to_workers_as_absolute_ones_and_do_not_change_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenreduce.testing import write_clip

    keys = []
    for place in ("here", "there"):
        folder = tmp_path / place
        folder.mkdir()
        write_clip(folder / "clip.mp4")
        line = '{"video": "clip.mp4", "question": "What?", "answer": "noise"}\n'
        (folder / "questions.jsonl").write_text(line)
        monkeypatch.chdir(folder)
        data = {
            "benchmark": {"use": "jsonl", "file": "questions.jsonl"},
            "timing": False,
            "reducers": {"random": {}},
        }
        seen: list[Unit] = []
        original = ModelWorker.run

        def look(self: ModelWorker, unit: Unit, run: Any = original, seen: Any = seen) -> Any:
            seen.append(unit)
            return run(self, unit)

        monkeypatch.setattr(ModelWorker, "run", look)
        results = tokenreduce.ablate(data, folder / "out")
        monkeypatch.setattr(ModelWorker, "run", original)
        assert results.failed == 0
        (unit,) = seen
        assert unit.setup.benchmark["file"] == str(folder / "questions.jsonl")
        assert unit.samples[0].video == folder / "clip.mp4"
        with Store.read(folder / "out") as store:
            keys.append([key for key, _ in store.cells()])
    assert keys[0] == keys[1]
