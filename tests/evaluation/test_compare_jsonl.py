"""`tokenreduce compare` on a local benchmark: answers where it is sound, lines where it is not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tokenreduce.cli import app

RING = Path(__file__).parents[2] / "examples" / "ring.mp4"  # 8 frames in 1 s
ASKED = {"video": "ring.mp4", "question": "what color is the ring", "answer": "green"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the command sets some for libraries
    for variable in ("HOME", "TMPDIR", "TOKENREDUCE_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    work.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(work)
    shutil.copy(RING, data)
    return tmp_path


def compare(folder: Path, *changes: dict[str, Any]) -> Result:
    lines = [json.dumps({**ASKED, **each}) for each in changes]
    (folder / "data" / "questions.jsonl").write_text("\n".join(lines))
    (folder / "my.yaml").write_text("reducers: {vas: {ratio: 0.5}}\nframes: 6\nmax_new_tokens: 2\n")
    benchmark = f"benchmark=jsonl:{folder / 'data' / 'questions.jsonl'}"
    arguments = ["compare", str(folder / "my.yaml"), "--set", benchmark, "--out", "results.sqlite"]
    return CliRunner().invoke(app, arguments)


def test_questions_are_answered_and_a_broken_one_costs_only_itself(folder: Path) -> None:
    options = {"options": {"green": "a green one", "red": "a red one"}}
    done = compare(folder, {"start": 0, "end": 0.9}, {**options, "id": "b"}, {"start": 5})
    assert done.exit_code == 1, done.output  # part of the work failed
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    assert [row["label"] for row in rows] == ["keep_all", "vas"]
    for row in rows:
        assert (row["samples"], row["failed"]) == (3, 1)
        assert row["categories"] == {"all": row["accuracy"]}
    # Six frames of 4 x 4 tokens, and the newline, which is not counted.
    assert rows[0]["tokens_per_layer"][0] == 96
    assert rows[0]["accuracy"] >= 0.5


def test_faults_are_told_before_any_work_and_nothing_is_written(folder: Path) -> None:
    faulty = {"answer": ""}, {}, {"video": "../../../etc/hostname"}, {"colour": "red"}, {"id": 2}
    done = compare(folder, *faulty)
    assert done.exit_code == 2
    first, *faults = done.stderr.splitlines()[-5:]
    assert first == f"tokenreduce: 4 faults in '{folder / 'data' / 'questions.jsonl'}':"
    named = [line.split(":")[0].strip() for line in faults]
    assert named == ["line 1", "line 3", "line 4", "line 5"]
    assert list((folder / "work").iterdir()) == []
    assert list((folder / "elsewhere").iterdir()) == []
    assert {path.name for path in (folder / "data").iterdir()} == {"ring.mp4", "questions.jsonl"}
