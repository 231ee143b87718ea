"""A report printed at the widths of terminals, and its document."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace

import pytest
from rich.console import Console

from tokenreduce.report import Comparison, Report, Row

COMPARISON = Comparison(
    first="mine",
    second="keep_all",
    pairs=40,
    difference=-0.125,
    interval=(-0.225, -0.025),
    first_only=1,
    second_only=6,
    p_value=0.0123,
    p_clustered=0.0061,
    p_adjusted=0.0246,
    verdict="worse",
)
BASELINE = Row(
    label="keep_all",
    reducer="keep_all",
    settings={},
    accuracy=0.75,
    accuracy_interval=(0.5981, 0.8581),
    categories={"color": 0.5, "order": 1.0},
    img_memory=1.0,
    flops_ratio=1.0,
    ttft_speedup=1.0,
    ttft_ms=40.0,
    peak_memory_mb=2.5,
    samples=40,
    failed=0,
    kv_ratio=1.0,
    tokens_per_layer=(64.0, 64.0, 64.0, 64.0),
    questions=40,
    planned=40,
    lengths={"8": 0.75, "16": 0.5},
)
MINE = replace(
    BASELINE,
    label="mine",
    reducer="vas+fastv",
    settings=[{"use": "vas", "ratio": 0.3}, {"use": "fastv"}],
    summary="vas(ratio=0.3) + fastv(layer=1)",
    img_memory=0.4785,
    kv_ratio=0.5123,
    ttft_speedup=3.5,
    ttft_interval=(3.25, 3.75),
    tokens_per_layer=(64.0, 19.25, 19.25, 6.0),
    comparison=COMPARISON,
)
REPORT = Report("m", "b", (BASELINE, MINE))


def printed(report: Report, width: int) -> str:
    out = io.StringIO()
    report.print(Console(file=out, width=width))  # a file: no terminal, no colours
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    return text


def test_a_wide_terminal_has_every_number_of_a_row_in_one_line() -> None:
    lines = printed(REPORT, 200).splitlines()
    assert lines[0] == "m on b, 40 questions"
    (row,) = (line for line in lines if line.startswith("mine") and "0.750" in line)
    assert row.split() == [
        "mine",
        *("0.750", "(0.60-0.86)", "-0.125", "(-0.225,", "-0.025)", "0.025"),
        *("0.478", "1.000", "0.512", "3.50x", "(3.25-3.75)", "40.0", "2.5"),
    ]
    heading = next(line for line in lines if "accuracy " in line)
    for name in ("against keep_all", "p", "Img-Mem", "FLOPs", "KV", "TTFT", "ms", "peak MB"):
        assert name in heading


def test_a_row_whose_questions_all_failed_stands_beside_the_others() -> None:
    lost = replace(MINE, label="lost", accuracy=None, failed=40, tokens_per_layer=())
    text = printed(replace(REPORT, rows=(BASELINE, MINE, lost)), 100)
    body = text[text.index("kept at each layer") : text.index("accuracy in")].splitlines()
    kept = [line.split(maxsplit=1) for line in body if line.startswith(("mine", "lost"))]
    assert [(name, tokens.rstrip()) for name, tokens in kept] == [
        ("mine", "64 (0), 19.2 (1-2), 6 (3)"),
        ("lost", "-"),
    ]


def test_the_verdict_stands_below_the_difference() -> None:
    undecided = replace(
        MINE, label="other", comparison=replace(COMPARISON, verdict="no difference shown")
    )
    text = printed(replace(REPORT, rows=(BASELINE, MINE, undecided)), 100)
    body = text[: text.index("accuracy: right of")]
    assert len(re.findall(r"\bworse\b", body)) == 1
    assert len(re.findall(r"\bno difference shown\b", body)) == 1
    assert not re.search(r"\bbetter\b", body)


def test_no_row_is_marked_as_best() -> None:
    """Of two rows that differ in nothing but their numbers, none is printed in another style."""
    rows = (
        BASELINE,
        *(
            replace(
                MINE,
                label=name,
                accuracy=accuracy,
                comparison=replace(
                    COMPARISON, difference=0.1, interval=(-0.01, 0.2), verdict="no difference shown"
                ),
            )
            for name, accuracy in (("one", 0.55), ("two", 0.95))
        ),
    )
    out = io.StringIO()
    Console(file=out, width=200, force_terminal=True, color_system="standard").print(
        replace(REPORT, rows=rows)
    )
    styles = {
        name: re.findall(r"\x1b\[[0-9;]*m", line)
        for line in out.getvalue().splitlines()
        for name in ("one", "two")
        if name in line and ("0.550" in line or "0.950" in line)
    }
    assert styles["one"] == styles["two"]


def test_kept_tokens_by_layer() -> None:
    text = printed(REPORT, 80)
    assert re.search(r"mine +64 \(0\), 19\.2 \(1-2\), 6 \(3\)", text)
    assert re.search(r"keep_all +64 \(0-3\)", text)


def test_accuracy_by_category_and_by_length() -> None:
    text = printed(REPORT, 80)
    assert re.search(r"accuracy in +color +order", text)
    assert re.search(r"mine +0\.50 +1\.00", text)
    assert re.search(r"accuracy at frames +8 +16", text)
    assert re.search(r"mine +0\.75 +0\.50", text)
    one = [replace(row, lengths={"8": 0.75}) for row in REPORT.rows]
    assert "at frames" not in printed(replace(REPORT, rows=tuple(one)), 80)


def test_a_narrow_terminal_cuts_between_groups_of_numbers() -> None:
    headings = [line for line in printed(REPORT, 120).splitlines() if "reducer and" in line]
    assert [re.split(r" {2,}", heading.strip())[1:] for heading in headings] == [
        ["accuracy", "against keep_all", "p", "Img-Mem", "FLOPs", "KV"],
        ["TTFT", "ms", "peak MB"],
    ]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit_and_lose_nothing(width: int) -> None:
    categories = {f"category_{n}": 0.5 for n in range(12)}
    rows = tuple(
        replace(MINE, label=f"label_of_a_row_{n}", summary="layer=0.2812", categories=categories)
        for n in range(9)
    )
    text = printed(replace(REPORT, rows=rows), width)
    for word in [*categories, "Img-Mem", "FLOPs", "KV", "TTFT", "peak MB", "against label_of_a"]:
        assert word in text
    for row in rows:
        assert text.count(row.label) >= 4  # numbers, kept tokens, categories, lengths
    for number in ("0.750 (0.60-0.86)", "3.50x (3.25-3.75)", "-0.125 (-0.225, -0.025)"):
        assert text.count(number) == 9
    assert text.count("layer=0.2812") == 9


def test_a_label_that_is_longer_than_its_column_is_folded() -> None:
    label = "vas ratio=0.3 interval=3 start_layer=0.28 coefficient=0.5 mode=spatial"
    text = printed(replace(REPORT, rows=(BASELINE, replace(MINE, label=label))), 80)
    assert "coefficient=0.5" in text
    assert "3.50x (3.25-3.75)" in text


def test_what_a_label_already_says_is_not_said_again() -> None:
    row = replace(MINE, label="vas ratio=0.3", summary="ratio=0.3")
    assert printed(replace(REPORT, rows=(BASELINE, row)), 200).count("ratio=0.3") == 4


def test_failures_are_shown() -> None:
    row = replace(MINE, failed=1)
    report = replace(REPORT, rows=(BASELINE, row), errors=("mine: VideoError: broken",))
    text = printed(report, 80)
    assert "1 of 40 failed" in text
    assert "mine: VideoError: broken" in text
    assert report.failed == 1


def test_unfinished_rows_say_how_far_they_are() -> None:
    report = replace(REPORT, rows=(BASELINE, replace(MINE, questions=12)))
    text = printed(report, 80)
    assert "12 of 40 questions" in text
    assert "stopped before its end" in text.splitlines()[0]
    assert not report.finished


def test_an_interrupted_run_says_so() -> None:
    assert "stopped" not in printed(REPORT, 80).splitlines()[0]
    assert (
        "stopped before its end" in printed(replace(REPORT, interrupted=True), 80).splitlines()[0]
    )


def test_a_budget_says_what_was_reached() -> None:
    budget = {"measure": "img_memory", "target": 0.25, "tolerance": 0.005}
    reached = replace(MINE, budget={**budget, "reached": 0.2512, "within": True, "note": ""})
    note = "cannot reach 0.25: nearest is 0.438 at ratio=0.1"
    missed = replace(
        MINE, label="late", budget={**budget, "reached": 0.4375, "within": False, "note": note}
    )
    report = replace(REPORT, rows=(BASELINE, reached, missed), budget=budget)
    text = printed(report, 200)
    assert text.splitlines()[0] == "m on b, 40 questions, at 0.25 Img-Memory (within 0.005)"
    assert re.search(r"0\.512 +0\.251 +3\.50x", text)
    assert re.search(r"0\.512 +0\.438 +3\.50x", text)
    body = text[: text.index("accuracy: right of")]
    assert len(re.findall(r"\bmissed\b", body)) == 1
    assert body.count(note) == 1
    assert "reached: Img-Memory on the questions that were held out" in text
    assert note in " ".join(printed(report, 80).split())


def test_every_number_is_defined_once_below_the_table() -> None:
    text = " ".join(printed(REPORT, 100).split())
    for name in ("accuracy:", "against keep_all:", "Img-Mem:", "FLOPs:", "KV:", "TTFT:", "ms:"):
        assert text.count(name) == 1
    assert "averaged over the layers" in text
    assert "a multiply-add is 2 and causal attention counts half" in text


def test_names_are_no_markup() -> None:
    row = replace(
        MINE, label="[red]row[/]", summary="layers=[2]", categories={"[b]one": 1.0, "two": 0.0}
    )
    text = printed(replace(REPORT, rows=(row,), errors=("[red]row[/]: [i]",)), 100)
    assert text.count("[red]row[/]") >= 5  # four tables, and the error
    assert "against [red]row[/]" in text
    assert "layers=[2]" in text
    assert "[b]one" in text


def test_nothing_ran() -> None:
    empty = replace(
        BASELINE,
        accuracy=None,
        accuracy_interval=None,
        categories={},
        lengths={},
        img_memory=None,
        flops_ratio=None,
        kv_ratio=None,
        tokens_per_layer=(),
        ttft_speedup=None,
        ttft_ms=None,
        peak_memory_mb=None,
        samples=0,
        questions=0,
    )
    report = replace(REPORT, rows=(empty,))
    assert "0 of 40 questions" in printed(report, 80)
    assert json.loads(report.to_json())["rows"][0]["accuracy"] is None
    assert printed(Report("m", "b", ()), 80).strip() == "m on b, 0 questions"


def test_document() -> None:
    text = REPORT.to_json()
    assert "\n" not in text
    document = json.loads(text)
    assert list(document)[:3] == ["model", "benchmark", "rows"]
    assert (document["model"], document["benchmark"]) == ("m", "b")
    for row in document["rows"]:
        assert list(row)[:13] == [
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
    assert document["rows"][1]["reducer"] == "vas+fastv"
    assert document["rows"][1]["settings"] == [{"use": "vas", "ratio": 0.3}, {"use": "fastv"}]
    assert document["rows"][1]["comparison"]["verdict"] == "worse"
    assert document["rows"][1]["comparison"]["interval"] == [-0.225, -0.025]
