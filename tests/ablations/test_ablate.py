"""Whole grids on the embedded model: shared or cell by cell, in one go or in many."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tokenreduce
from tests.ablations.killing import kill_at_random
from tokenreduce import worker
from tokenreduce.ablations.grid import parse_grid
from tokenreduce.ablations.held_out import slice_of
from tokenreduce.ablations.options import BudgetSettings
from tokenreduce.ablations.run import run_grid
from tokenreduce.config import Classes
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.errors import ConfigError
from tokenreduce.export import export
from tokenreduce.plugins import load_plugins
from tokenreduce.results import Results
from tokenreduce.store import Store
from tokenreduce.worker import ModelWorker

EVERY = {
    "vas": {"ratio": {"sweep": [0.3, 0.5]}, "interval": {"sweep": [3, 4]}},
    "fastv": {"queries": {"sweep": ["last", "all"]}},
    "vcc": {},
    "tome": {"r": 4},
    "random": {},
    "spatial_average": {},
    "temporal_average": {},
    "pyramid_drop": {},
    "sparse_vlm": {},
    "frame_fusion": {},
    "evs": {},
    "div_prune": {"ratio": 0.5},
    "vtw": {},
    "both": [{"use": "evs", "ratio": 0.5}, {"use": "vas"}],
}


def grid(**more: Any) -> dict[str, Any]:
    return {"limit": 8, "timing": False, "reducers": {"vas": {}, "random": {}}, **more}


def answers(folder: Path) -> dict[tuple[str, int, str], Any]:
    with Store.read(folder) as store:
        return {
            (cell.label, cell.seed, record.sample): (
                record.prediction,
                record.correct,
                record.tokens_per_layer,
                record.flops,
                record.kv_bytes,
                record.error,
            )
            for key, cell in store.cells()
            for record in store.records(key)
        }


@pytest.fixture(scope="module")
def plugins() -> Any:
    return load_plugins()


def run(data: dict[str, Any], out: Path, plugins: Any, *, share: bool) -> None:
    classes = Classes(plugins.registry.reducers, plugins.registry.benchmarks)
    make = partial(ModelWorker, plugins.registry, share=share)
    run_grid(parse_grid(data, classes, "the grid"), data, plugins, out, make_worker=make)


def test_sharing_changes_no_answer_of_any_reducer(plugins: Any, tmp_path: Path) -> None:
    data = grid(reducers=EVERY, seeds=[0, 1], limit=3)
    run(data, tmp_path / "shared", plugins, share=True)
    run(data, tmp_path / "apart", plugins, share=False)
    shared, apart = answers(tmp_path / "shared"), answers(tmp_path / "apart")
    assert shared == apart
    assert len(shared) == 3 * 2 * 19
    assert all(error is None for *_, error in shared.values())
    assert len({kept for _, _, kept, *_ in shared.values()}) > 12


class Asked:
    """Counts the lists of reducers that questions are asked under."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lists = 0
        original = worker.answer_each

        def counting(loaded: Any, inputs: Any, variants: Any, **settings: Any) -> Any:
            self.lists += len(variants)
            return original(loaded, inputs, variants, **settings)

        monkeypatch.setattr(worker, "answer_each", counting)

    def take(self) -> int:
        count, self.lists = self.lists, 0
        return count


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    return Asked(monkeypatch)  # type: ignore[return-value]


def test_what_is_finished_is_not_asked_again(asked: Asked, tmp_path: Path) -> None:
    first = tokenreduce.ablate(grid(), tmp_path)
    assert asked.take() == 8 * 3
    again = tokenreduce.ablate(grid(), tmp_path)
    assert asked.take() == 0
    assert again.document() == first.document()
    wider = grid(reducers={"vas": {}, "fastv": {}, "random": {}})
    assert [row.label for row in tokenreduce.ablate(wider, tmp_path).tables[0].rows] == [
        "keep_all", "vas", "fastv", "random",
    ]  # fmt: skip
    assert asked.take() == 8
    tokenreduce.ablate(grid(limit=10), tmp_path)
    spread = {sample for _, _, sample in answers(tmp_path)}
    assert asked.take() == 3 * (len(spread) - 8)


def test_a_question_that_was_changed_is_asked_again(asked: Asked, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    shutil.copy(Path(__file__).parents[2] / "examples" / "ring.mp4", tmp_path)
    data = grid(benchmark={"use": "jsonl", "file": str(questions)})
    for color, lists in (("red", 6), ("red", 0), ("blue", 3)):
        lines = [
            {"id": name, "video": "ring.mp4", "question": f"is it {said} ?", "answer": "yes"}
            for name, said in (("a", color), ("b", "red"))
        ]
        questions.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        tokenreduce.ablate(data, tmp_path / "out")
        assert asked.take() == lists  # questions, in three rows


def test_failed_questions_are_kept_and_asked_again_on_request(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tokenreduce import clips

    original = clips.VideoPass

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise OSError("the disk is away")

    monkeypatch.setattr(clips, "VideoPass", broken)
    results = tokenreduce.ablate(grid(), tmp_path)
    assert results.failed == 24
    assert "the disk is away" in results.tables[0].errors[0]
    monkeypatch.setattr(clips, "VideoPass", original)
    assert tokenreduce.ablate(grid(), tmp_path).failed == 24
    assert asked.take() == 0
    assert tokenreduce.ablate(grid(), tmp_path, retry_failed=True).failed == 0
    assert asked.take() == 24


def test_timings_and_pictures_are_made_once(tmp_path: Path) -> None:
    data = grid(timing={"samples": 2, "repeats": 2}, pictures={"samples": 1})
    results = tokenreduce.ablate(data, tmp_path)
    assert all(row.ttft_ms for row in results.tables[0].rows)
    with Store.read(tmp_path) as store:
        keys = [key for key, _ in store.cells()]
        timings = [store.timings(key) for key in keys]
        kinds = [{picture.kind for picture in store.pictures(key)} for key in keys]
    assert [len(each) for each in timings] == [4, 4, 4]
    assert kinds == [{"overlay", "levels"}] * 3
    tokenreduce.ablate(data, tmp_path)
    with Store.read(tmp_path) as store:
        assert [store.timings(key) for key in keys] == timings


def test_more_rounds_are_timed_where_fewer_were_and_other_seeds_are_not(tmp_path: Path) -> None:
    for repeats in (1, 3):
        timing = {"samples": 1, "repeats": repeats}
        tokenreduce.ablate(grid(limit=1, seeds=[0, 1], timing=timing), tmp_path)
        with Store.read(tmp_path) as store:
            rounds = {
                (cell.label, cell.seed): [timed.round for timed in store.timings(key)]
                for key, cell in store.cells()
            }
        labels, wanted = ("keep_all", "vas", "random"), list(range(repeats))
        assert rounds == {(label, 0): wanted for label in labels} | {
            (label, 1): [] for label in labels
        }


def test_every_cell_is_shown_its_own_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = worker.answer_each
    asked: list[int] = []

    def seen(loaded: Any, inputs: Any, variants: Any, **settings: Any) -> Any:
        asked.append(len(variants))
        return original(loaded, inputs, variants, **settings)

    monkeypatch.setattr(worker, "answer_each", seen)
    frames = {"sweep": [4, 8]}
    data = grid(limit=1, reducers={"fastv": {}}, baselines=True, frames=frames)
    tokenreduce.ablate(data, tmp_path)
    with Store.read(tmp_path) as store:
        tokens = {
            (cell.setup.frames, cell.label): record.visual_tokens
            for key, cell in store.cells()
            for record in store.records(key)
        }
    # 16 tokens a frame; the embedded model scales smaller frames up again.
    each = {"keep_all": 16, "fastv": 16, "random": 16, "fewer frames": 8, "smaller frames": 16}
    assert tokens == {(n, label): n * count for n in (4, 8) for label, count in each.items()}
    # Whole frames in three rows, fewer and smaller ones in one each, for both setups.
    assert sorted(asked) == [1, 1, 1, 1, 3, 3]


def test_equal_budgets_are_met_on_other_videos(tmp_path: Path) -> None:
    data = grid(
        limit=30,
        baselines=True,
        budget={"img_memory": {"sweep": [0.5, 0.75]}},
        reducers={"fastv": {}, "vcc": {}},
    )
    results = tokenreduce.ablate(data, tmp_path)
    for report, target in zip(results.tables, (0.5, 0.75), strict=True):
        rows = {row.label: row for row in report.rows}
        assert rows["keep_all"].img_memory == 1
        for label in ("fastv", "random", "fewer frames"):
            assert rows[label].img_memory == pytest.approx(target, abs=0.005), label
        assert rows["vcc"].budget["note"].startswith(f"cannot reach {target}: nearest is")
    with Store.read(tmp_path) as store:
        (asked,) = store.questions().values()
        kept = {key: store.records(key) for key, _ in store.cells()}
    held_out, _ = slice_of(EmbeddedBenchmark().samples(), BudgetSettings(img_memory=0.5).slice)
    assert not {sample.id for sample in held_out} & set(asked)
    again = tokenreduce.ablate(data, tmp_path)
    assert again.document() == results.document()
    with Store.read(tmp_path) as store:
        assert {key: store.records(key) for key, _ in store.cells()} == kept


def test_layers_that_do_not_exist_are_told_before_any_work(tmp_path: Path) -> None:
    rows = {"fastv": {"layer": {"sweep": [1, 13, 14]}}}
    with pytest.raises(ConfigError) as error:
        tokenreduce.ablate(grid(reducers=rows), tmp_path / "out")
    assert "2 errors in the grid" in str(error.value)
    assert "reducers.fastv layer=13: " in str(error.value)
    assert "reducers.fastv layer=14: " in str(error.value)
    assert not (tmp_path / "out").exists()


def test_without_a_folder_results_are_returned_all_the_same() -> None:
    results = tokenreduce.ablate(grid(limit=2))
    assert len(results.tables[0].rows) == 3
    assert results.compare("vas", "random").pairs == 2


YAML = """
limit: 24
timing: {samples: 1, repeats: 1}
seeds: [0, 1]
reducers:
  vas: {ratio: {sweep: [0.3, 0.5]}}
  random: {}
  tome: {r: 4}
"""


def command(folder: Path, config: Path) -> list[str]:
    words = ["ablate", str(config), "--out", str(folder), "--workers", "2"]
    return [sys.executable, "-m", "tokenreduce", *words]


def exported(folder: Path, to: Path) -> dict[str, bytes]:
    """Everything that a folder came to, what a clock says apart."""
    with Store.read(folder) as store:
        export(store, to, "csv")
        document = Results(store).document()
    files = [path for path in sorted(to.iterdir()) if not path.name.startswith("timing")]
    for table in document["tables"]:
        for row in table["rows"]:
            for clocked in ("ttft_speedup", "ttft_interval", "ttft_ms", "peak_memory_mb"):
                del row[clocked]
    return {path.name: path.read_bytes() for path in files} | {
        "statistics": json.dumps(document).encode()
    }


def kill_and_compare(kills: int, folder: Path, longest: float, seed: int = 0) -> list[float]:
    """Kill real runs and compare what they come to with a run that nobody kills."""
    config = folder / "grid.yaml"
    config.write_text(YAML)
    whole = kill_at_random(
        lambda out: command(out, config), folder / "whole", kills=0, longest=1, seed=0
    )
    expected = exported(whole.folders[0], folder / "expected")
    outcome = kill_at_random(
        lambda out: command(out, config), folder / "killed", kills=kills, longest=longest, seed=seed
    )
    assert not outcome.orphans
    for number, out in enumerate(outcome.folders):
        assert exported(out, folder / f"found{number}") == expected
    return outcome.moments


@pytest.mark.slow
def test_kills_change_no_byte_of_the_export(tmp_path: Path) -> None:
    assert len(kill_and_compare(6, tmp_path, longest=14)) == 6
