"""Writes the measured tables and the picture of docs/performance.md from documents of a bench.

    python benchmarks/performance_page.py [FOLDER] [PAGE]

FOLDER is where check_targets.py put its documents. What was not measured is left out.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from check_targets import TARGETS, Figure, figures

from tokenreduce.bench.result import Result, Row
from tokenreduce.bench.waterfall import waterfall

ROOT = Path(__file__).parent.parent
COUNTS = ("1568", "2304", "4608")  # runs of the paper's numbers of visual tokens
PICTURED = ("4608", ("model", "vas"))


def main() -> None:
    """Fill the page's regions, and draw the picture beside it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "bench-results")
    page = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "performance.md"
    documents = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    text = page.read_text(encoding="utf-8")
    for name, lines in (("speeds", speeds(documents)), ("targets", targets(documents))):
        region = f"<!-- measured: {name} -->\n\n{chr(10).join(lines)}\n\n<!-- end: {name} -->"
        pattern = rf"<!-- measured: {name} -->.*?<!-- end: {name} -->"
        text = re.sub(pattern, lambda _, region=region: region, text, flags=re.DOTALL)
    page.write_text(text, encoding="utf-8")
    run, labels = PICTURED
    if run in documents:
        picture = page.with_name("waterfall.svg")
        picture.write_text(waterfall(result_of(documents[run], labels)), encoding="utf-8")


def result_of(document: dict[str, Any], labels: tuple[str, ...]) -> Result:
    """Read a document back, with some of its rows."""
    rows = [Row(**row) for row in document["rows"] if row["label"] in labels]
    return Result(**{**document, "rows": rows})


def speeds(documents: dict[str, Any]) -> Iterator[str]:
    """Yield one table for each of the paper's numbers of visual tokens."""
    for run in COUNTS:
        if run not in documents:
            continue
        document = documents[run]
        machine, rates = document["machine"], document["rates"]
        yield (
            f"**{document['visual_tokens']} visual tokens, `{document['model']}`** "
            f"({document['options']['dtype']}, {machine['processor']}, {machine['threads']} "
            f"threads, torch {machine['torch']}, timed rounds: {document['options']['repeats']}; "
            "matrix products "
            f"{rates['matmul_flops_per_second'] / 1e9:.0f} GFLOP/s, attention "
            f"{rates['attention_flops_per_second'] / 1e9:.0f} GFLOP/s)"
        )
        yield from ("", "| row | Img-Memory | prefill | speedup | ideal | efficiency | share |")
        yield "|---|---|---|---|---|---|---|"
        for row in document["rows"]:
            if row["prefill"] is not None:
                yield _speed(row)
        yield ""


def _speed(row: dict[str, Any]) -> str:
    cells = (
        row["label"],
        _number(row["img_memory"], ".3f"),
        f"{row['prefill']['minimum'] * 1000:.0f} ms",
        _number(row["speedup"], ".2f"),
        _number(row["ideal_speedup"], ".2f"),
        _number(row["efficiency"], ".2f"),
        _number(row["overhead"] if row["reducer"] else None, ".1%"),
    )
    return f"| {' | '.join(cells)} |"


def targets(documents: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the targets: for each run the figure that is nearest to missing it."""
    yield from ("| target | wanted | run | worst figure | verdict |", "|---|---|---|---|---|")
    for target in tomllib.loads(TARGETS.read_text(encoding="utf-8"))["target"]:
        found = list(figures([target], documents))
        for run in target["runs"]:
            of_run = [figure for figure in found if figure.run == run]
            measured = [figure for figure in of_run if figure.value is not None]
            worst = _worst(measured, "at_least" in target)
            yield (
                f"| {target['name']} | {of_run[0].wanted} | {run} | {worst} | "
                f"{_verdict(of_run, measured)} |"
            )


def _worst(measured: list[Figure], least: bool) -> str:
    by_value = sorted((figure.value, figure.row) for figure in measured)
    if not by_value:
        return ""
    value, row = by_value[0 if least else -1]
    return f"{value:.3f} ({row})"


def _verdict(found: list[Figure], measured: list[Figure]) -> str:
    """Return ``met`` only where every row was measured."""
    if not all(figure.met for figure in measured):
        return "missed"
    if len(measured) == len(found):
        return "met"
    return f"open: {len(measured)} of {len(found)} rows measured"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
