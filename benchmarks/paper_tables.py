"""Sets the times of `tokenreduce bench` beside the paper's tables 1 to 4 and 6.

    python benchmarks/paper_tables.py FOLDER

reads every document of a bench in FOLDER, prints one table, and writes FOLDER/paper.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "paper.json"
COLUMNS = (
    ("TTFT", "ttft_speedup"),
    ("with vision", "ttft_speedup_with_vision"),
    ("ideal", "ideal_speedup"),
    ("paper", "paper_ttft_speedup"),
    ("Img-Mem", "img_memory"),
    ("paper", "paper_img_memory"),
)


def main() -> None:
    """Print the table and write the document."""
    folder = Path(sys.argv[1])
    rows = [row for path in sorted(folder.glob("*.json")) for row in published(path)]
    rows.sort(key=lambda row: row["table"])
    (folder / NAME).write_text(json.dumps(rows), encoding="utf-8")
    print(f"{'table and model':<24}{'method':<18}" + "".join(f"{h:>13}" for h, _ in COLUMNS))
    for row in rows:
        values = "".join(f"{_number(row[key]):>13}" for _, key in COLUMNS)
        print(f"{row['table']}  {row['paper_model']:<21}{row['label']:<18}{values}")


def published(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of one document that the paper has too."""
    if path.name == NAME:
        return
    document = json.loads(path.read_text(encoding="utf-8"))
    for row in document["rows"]:
        if row["paper"] is None:
            continue
        own = ("label", "ttft_speedup", "ttft_speedup_with_vision", "ideal_speedup", "img_memory")
        yield {
            "table": row["paper"]["table"],
            "model": document["model"],
            "paper_model": document["paper_model"],
            **{key: row[key] for key in own},
            "paper_ttft_speedup": row["paper"]["ttft_speedup"],
            "paper_img_memory": row["paper"]["img_memory"],
        }


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main()
