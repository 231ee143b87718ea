"""Records of questions in a run of lmms-eval: what is written, and its means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tokenreduce.errors import ConfigError
from tokenreduce.lmms.records import Answered, line_of, means, write_records

HALF = Answered(
    text="red",
    visual_tokens=8,
    tokens_per_layer=(8, 8, 4, 0),
    flops_ratio=0.5,
    ttft=2.0,
    seconds=3.0,
    input_tokens=12,
    output_tokens=2,
    batch=2,
)


def test_a_record_has_all_of_it() -> None:
    assert json.loads(line_of(HALF, "mine", "test", 7)) == {
        "task": "mine",
        "split": "test",
        "doc_id": 7,
        "prediction": "red",
        "error": None,
        "visual_tokens": 8,
        "tokens_per_layer": [8, 8, 4, 0],
        "kept_tokens": 5.0,
        "img_memory": 0.625,
        "flops_ratio": 0.5,
        "ttft": 2.0,
        "seconds": 3.0,
        "input_tokens": 12,
        "output_tokens": 2,
        "batch": 2,
    }


def test_means_leave_failures_out_and_count_them() -> None:
    full = Answered(visual_tokens=8, tokens_per_layer=(8,) * 4, flops_ratio=1.0, ttft=4.0)
    assert means([HALF, full, Answered(error="no file")]) == {
        "ttft": 3.0,
        "kept_tokens": 6.5,
        "img_memory": 0.8125,
        "flops_ratio": 0.75,
        "failed_samples": 1.0,
    }
    assert means([Answered(error="no file")]) == {"failed_samples": 1.0}


def test_lines_are_added(tmp_path: Path) -> None:
    file = tmp_path / "new" / "records.jsonl"
    write_records(file, ["1"])
    write_records(file, ["2", "3"])
    assert file.read_text() == "1\n2\n3\n"
    with pytest.raises(ConfigError, match="give records=FILE"):
        write_records(file / "below", ["4"])
