"""Runs the benches of targets.toml, and prints which targets are met, with the figures.

    python benchmarks/check_targets.py [--results FOLDER] [--only RUN]... [--again]

A run whose document is in FOLDER already is not made again unless --again says so. Exit codes: 0
all targets met, 1 some missed or not measured.

Measures, each of one row of one run:

prefill_of_model    fastest prefill over that of the model with nothing attached
decode_of_model     a decoded token's median time over that of the model with nothing attached,
                    fastest runs
memory_of_model     peak memory over that of the model with nothing attached
speedup, efficiency, overhead
                    as in the document of `tokenreduce bench`
pairs_out_of_order  pairs of reducers whose ideal speedups differ by more than 5 %, but whose
                    measured ones are in the other order
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

TARGETS = Path(__file__).with_name("targets.toml")
CLOSE = 1.05  # ideals nearer than this have no order to keep


@dataclass(frozen=True)
class Figure:
    """One number of one target; None if it was not measured."""

    target: str
    run: str
    row: str
    value: float | None
    wanted: str
    met: bool


def main() -> int:
    """Run what is missing, and print the verdicts."""
    parser = argparse.ArgumentParser(description="Check the targets of targets.toml.")
    parser.add_argument("--results", type=Path, default=Path("bench-results"))
    parser.add_argument("--only", action="append", metavar="RUN", help="runs to make")
    parser.add_argument("--again", action="store_true", help="make runs that are there already")
    asked = parser.parse_args()
    config = tomllib.loads(TARGETS.read_text(encoding="utf-8"))
    asked.results.mkdir(parents=True, exist_ok=True)
    for run in config["run"]:
        document = asked.results / f"{run['name']}.json"
        wanted = not asked.only or run["name"] in asked.only
        if wanted and (asked.again or not document.exists()):
            document.write_text(bench(run["arguments"]), encoding="utf-8")
    documents = {path.stem: json.loads(path.read_text()) for path in asked.results.glob("*.json")}
    found = list(figures(config["target"], documents))
    print_figures(found)
    return 0 if all(figure.met for figure in found) else 1


def bench(arguments: str) -> str:
    """Run one bench, its table to stdout, and return the last line: its document."""
    command = [sys.executable, "-m", "tokenreduce", "bench", *shlex.split(arguments)]
    print(f"tokenreduce bench {arguments}", flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    *table, document = done.stdout.rstrip("\n").split("\n")
    print("\n".join(table), flush=True)
    return document


def figures(targets: list[dict[str, Any]], documents: dict[str, Any]) -> Iterator[Figure]:
    """Yield every figure of every target."""
    for target in targets:
        for run in target["runs"]:
            for row in target["rows"]:
                value = measure(target, documents, run, row)
                least, most = target.get("at_least"), target.get("at_most")
                met = value is not None
                met = met and (least is None or value >= least) and (most is None or value <= most)
                wanted = f">= {least}" if most is None else f"<= {most}"
                yield Figure(target["name"], run, row, value, wanted, met)


def measure(target: dict[str, Any], documents: dict[str, Any], run: str, row: str) -> float | None:
    """Return one target's number; None if a run, a row or the number is missing."""
    take = MEASURES[target["measure"]]
    runs = [run, *([target["relative_to"]] if "relative_to" in target else [])]
    values = []
    for name in runs:
        rows = {each["label"]: each for each in documents.get(name, {"rows": []})["rows"]}
        value = take(rows, row) if row in rows else None
        if value is None:
            return None
        values.append(value)
    return values[0] if len(values) == 1 else values[0] / values[1]


Rows = dict[str, Any]


def of_model(*path: str) -> Callable[[Rows, str], float | None]:
    """Return a measure: a row's number over that of the row ``model``."""

    def take(rows: Rows, row: str) -> float | None:
        own, models = (_at(rows.get(name), path) for name in (row, "model"))
        return None if own is None or models is None else own / models

    return take


def pairs_out_of_order(rows: Rows, row: str) -> float | None:
    """Count pairs of reducers that the machine ranks otherwise than the cost model."""
    ranked = [
        (each["ideal_speedup"], each["speedup"])
        for each in rows.values()
        if each.get("ideal_speedup") is not None and each.get("speedup") is not None
    ]
    if len(ranked) < 2:
        return None
    apart = [
        sorted(pair) for pair in combinations(ranked, 2) if max(pair)[0] > CLOSE * min(pair)[0]
    ]
    return sum(slow[1] >= fast[1] for slow, fast in apart)


def _at(row: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        row = None if row is None else row.get(key)
    return row


MEASURES: dict[str, Callable[[Rows, str], float | None]] = {
    "prefill_of_model": of_model("prefill", "minimum"),
    "decode_of_model": of_model("decode", "minimum"),
    "memory_of_model": of_model("peak_memory"),
    "speedup": lambda rows, row: rows[row].get("speedup"),
    "efficiency": lambda rows, row: rows[row].get("efficiency"),
    "overhead": lambda rows, row: rows[row].get("overhead"),
    "pairs_out_of_order": pairs_out_of_order,
}


def print_figures(found: list[Figure]) -> None:
    """Print a line for each figure, under its target."""
    last = ""
    for figure in found:
        if figure.target != last:
            last = figure.target
            print(f"\n{last} ({figure.wanted})")
        value = "not measured" if figure.value is None else f"{figure.value:.4f}"
        verdict = "met" if figure.met else "missed" if figure.value is not None else "open"
        print(f"  {verdict:<7} {figure.run:<14} {figure.row:<17} {value}")
    met = sum(figure.met for figure in found)
    print(f"\n{met} of {len(found)} figures met")


if __name__ == "__main__":
    sys.exit(main())
