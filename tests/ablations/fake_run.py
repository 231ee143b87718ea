"""Run a fake grid into a results file, going on from what is there: `python -m ... FOLDER`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from tests.ablations.fake_worker import FakeWorkers, grid
from tokenreduce.engines import engine
from tokenreduce.store import Store
from tokenreduce.units import Unit

ROOT = Path(__file__).parent.parent.parent


def command(folder: Path, *options: str) -> list[str]:
    """Return the words that run this file in a fresh process, whatever its environment."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
        "from tests.ablations.fake_run import main; main()"
    )
    return [sys.executable, "-c", code, str(folder), *options]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engine", default="local")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--address")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--videos", type=int, default=4)
    asked = parser.parse_args()
    units = grid(videos=asked.videos)
    with (
        Store.open(asked.folder) as store,
        engine(asked.engine, asked.workers, device="cpu", address=asked.address) as workers,
    ):
        store.begin({}, [cell for unit in units[:: asked.videos] for cell in unit.cells])
        print("begun", flush=True)
        notes = asked.folder / "notes"
        notes.mkdir(exist_ok=True)
        left = [missing(unit, store) for unit in units]
        workers.run(left, FakeWorkers(notes, asked.delay), store.add)
    print("finished", flush=True)


def missing(unit: Unit, store: Store) -> Unit:
    """Return a unit without what the file has already."""
    done = {(key, sample) for key, _ in unit.cells for sample in store.finished(key)}
    return replace(unit, done=frozenset(done))


def contents(folder: Path) -> dict[str, list[object]]:
    """Return all answers of a results file."""
    with Store.read(folder) as store:
        return {key: list(store.records(key)) for key, _ in store.cells()}
