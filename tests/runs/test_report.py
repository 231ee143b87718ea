"""Numbers of the report by hand, and its tables at the widths of terminals."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tokenreduce.report import Report, build_report
from tokenreduce.store import Cell, SampleRecord, Store

CELLS = [
    Cell("keep_all", "keep_all", {}),
    Cell("mine", "vas+fastv", [{"ratio": 0.3}, {}], "vas(ratio=0.3, interval=3) + fastv(layer=1)"),
]
BLANK = SampleRecord("mine", 0, "", "color", "red")
RECORDS = [
    replace(
        BLANK,
        sample="1",
        prediction="red",
        correct=True,
        img_memory=0.25,
        flops_ratio=0.5,
        ttft_ms=10.0,
        ttft_full_ms=40.0,
        peak_memory_bytes=1_000_000,
    ),
    replace(
        BLANK,
        sample="2",
        prediction="blue",
        correct=False,
        img_memory=0.75,
        flops_ratio=0.75,
        ttft_ms=20.0,
        ttft_full_ms=30.0,
        peak_memory_bytes=2_500_000,
    ),
    replace(
        BLANK,
        sample="3",
        category="order",
        prediction="red",
        correct=True,
        img_memory=0.5,
        flops_ratio=1.0,
        ttft_ms=30.0,
        ttft_full_ms=30.0,
    ),
    replace(BLANK, sample="4", category="order", error="VideoError: broken"),
]


def report_of(path: Path, records: list[SampleRecord], cells: list[Cell] = CELLS) -> Report:
    store = Store.begin(path / "r.sqlite", model="m", benchmark="b", config={}, cells=cells)
    with store:
        store.add(records)
        return build_report(store)


def test_numbers_by_hand(tmp_path: Path) -> None:
    report = report_of(tmp_path, RECORDS)
    row = report.rows[1]
    assert row.accuracy == pytest.approx(2 / 3)
    # Wilson for 2 of 3, z = 1.959964: centre (2/3 + 0.640243) / 2.280486 = 0.573083,
    # half 1.959964 sqrt(2/27 + 0.106707) / 2.280486 = 0.365424
    assert row.accuracy_interval == pytest.approx((0.207659, 0.938507), abs=2e-5)
    assert row.categories == {"color": 0.5, "order": 1.0}
    assert row.img_memory == pytest.approx(0.5)
    assert row.flops_ratio == pytest.approx(0.75)
    assert row.ttft_speedup == pytest.approx(1.5)  # the middle one of 4, 1.5 and 1
    assert row.ttft_ms == 20.0
    assert row.peak_memory_mb == 2.5
    assert (row.samples, row.failed) == (4, 1)
    assert report.failed == 1
    assert report.errors == ("mine: VideoError: broken",)


def test_a_row_without_answers(tmp_path: Path) -> None:
    row = report_of(tmp_path, RECORDS).rows[0]
    assert (row.accuracy, row.accuracy_interval, row.img_memory, row.ttft_ms) == (None,) * 4
    assert (row.samples, row.failed) == (0, 0)


def test_more_seeds_do_not_narrow_the_interval(tmp_path: Path) -> None:
    records = [replace(r, seed=seed, sample=r.sample) for r in RECORDS[:3] for seed in range(5)]
    row = report_of(tmp_path, records).rows[1]
    assert row.samples == 15
    assert row.accuracy == pytest.approx(2 / 3)
    assert row.accuracy_interval == pytest.approx((0.207659, 0.938507), abs=2e-5)


def test_document(tmp_path: Path) -> None:
    text = report_of(tmp_path, RECORDS).to_json()
    assert "\n" not in text
    document = json.loads(text)
    assert list(document) == ["model", "benchmark", "rows"]
    assert (document["model"], document["benchmark"]) == ("m", "b")
    assert [list(row) for row in document["rows"]] == [
        [
            "label",
            "reducer",
            "settings",
            "accuracy",
            "accuracy_interval",
            "categories",
            "img_memory",
            "flops_ratio",
            "ttft_speedup",
            "ttft_ms",
            "peak_memory_mb",
            "samples",
            "failed",
        ]
    ] * 2
    assert document["rows"][0]["accuracy"] is None
    assert document["rows"][1]["reducer"] == "vas+fastv"
    assert document["rows"][1]["settings"] == [{"ratio": 0.3}, {}]


def printed(report: Report, width: int) -> list[str]:
    out = io.StringIO()
    report.print(Console(file=out, width=width))  # a file: no terminal, no colours
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit_and_lose_nothing(tmp_path: Path, width: int) -> None:
    categories = [f"category_{n}" for n in range(12)]
    cells = [Cell(f"label_of_a_row_{n}", "vas", {}, "start_layer=0.2812") for n in range(9)]
    records = [
        replace(RECORDS[0], label=cell.label, sample=name, category=name)
        for cell in cells
        for name in categories
    ]
    lines = printed(report_of(tmp_path, records, cells), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "\x1b" not in text
    for word in [*categories, "Img-Mem", "FLOPs", "TTFT", "peak MB", "start_layer=0.2812"]:
        assert word in text
    for cell in cells:
        assert text.count(cell.label) >= 2  # in the main table and in one by category
    assert text.count("1.000 (0.76-1.00)") == 9  # 12 of 12: 12 / (12 + 3.841459) = 0.7575
    assert text.count("4.00x") == 9


def test_failures_are_shown(tmp_path: Path) -> None:
    text = "\n".join(printed(report_of(tmp_path, RECORDS), 80))
    assert "1 of 4 failed" in text
    assert "mine: VideoError: broken" in text


def test_names_are_no_markup(tmp_path: Path) -> None:
    cells = [Cell("[red]row[/]", "vas", {}, "layers=[2]")]
    records = [
        replace(RECORDS[0], label=cells[0].label, sample=name, category=f"[b]{name}")
        for name in ("one", "two")
    ]
    text = "\n".join(printed(report_of(tmp_path, records, cells), 100))
    assert text.count("[red]row[/]") == 2
    assert "layers=[2]" in text
    assert "[b]one" in text


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    report = replace(report_of(tmp_path, RECORDS), interrupted=True)
    assert "stopped before its end" in printed(report, 80)[0]


def test_nothing_ran(tmp_path: Path) -> None:
    report = report_of(tmp_path, [])
    assert json.loads(report.to_json())["rows"][1]["categories"] == {}
    assert printed(report, 80)
