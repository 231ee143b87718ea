"""Results of stores that were filled by hand, with every expected number worked by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tokenreduce.cells import Budget, Cell, Setup
from tokenreduce.errors import ConfigError
from tokenreduce.records import Record, SampleRecord, TimingRecord
from tokenreduce.results import Results
from tokenreduce.results.comparison import verdict
from tokenreduce.store import Store

SETUP = Setup(model="embedded", benchmark={"use": "embedded", "split": "default"}, frames=8)
KEEP_ALL = Cell(SETUP, "keep_all", "keep_all", ({"use": "keep_all"},))
VAS = Cell(SETUP, "vas ratio=0.5", "vas", ({"use": "vas", "ratio": 0.5},), summary="ratio=0.5")
FASTV = Cell(SETUP, "fastv", "fastv", ({"use": "fastv", "layer": 1},))


def key(cell: Cell) -> str:
    return cell.key({"code": "1"})


def answer(cell: Cell, number: int, correct: bool | None = True, **changed: object) -> SampleRecord:
    """One of 100 questions, five about each video; of two layers, the second one reduced."""
    record = SampleRecord(
        cell=key(cell),
        sample=f"q{number:03d}",
        digest=f"d{number}",
        category=("order", "color")[number % 2],
        answer="red",
        prediction="red" if correct else "blue",
        correct=correct,
        visual_tokens=64,
        tokens_per_layer=(64, 64) if cell.row == "keep_all" else (64, 32),
        flops=1000,
        flops_full=1000 if cell.row == "keep_all" else 1600,
        kv_bytes=900,
        kv_bytes_full=900 if cell.row == "keep_all" else 1200,
        video=f"v{number // 5}",
        frames=(8, 16)[number >= 50],
    )
    return replace(record, **changed)  # type: ignore[arg-type]


def answers(cell: Cell, right: Iterable[int], count: int = 100) -> list[SampleRecord]:
    right = set(right)
    return [answer(cell, number, number in right) for number in range(count)]


def results(
    path: Path,
    cells: Sequence[Cell],
    records: Iterable[Record],
    questions: int | None = 100,
) -> Results:
    known = None
    if questions is not None:
        ids = [f"q{n:03d}" for n in range(questions)]
        known = {cell.setup.key(): ids for cell in cells}
    with Store.open(path) as store:
        store.begin({}, [(key(cell), cell) for cell in cells], known)
        store.add_many(records)
        return Results(store)


def test_numbers_of_a_row_by_hand(tmp_path: Path) -> None:
    records: list[Record] = [
        *answers(KEEP_ALL, range(4), 4),
        answer(VAS, 0),
        answer(VAS, 1, False, tokens_per_layer=(64, 16), flops=800, kv_bytes=600),
        answer(VAS, 2),
        answer(VAS, 3, None, prediction=None, error="VideoError: broken", tokens_per_layer=()),
        TimingRecord(key(VAS), "q000", 0, 0.010, 0.040, 1_000_000),
        TimingRecord(key(VAS), "q000", 1, 0.020, 0.030),
        TimingRecord(key(VAS), "q002", 0, 0.030, 0.030, 2_500_000),
    ]
    found = results(tmp_path, [KEEP_ALL, VAS], records, 4)
    (table,) = found.tables
    keep_all, row = table.rows
    assert (table.model, table.benchmark, table.finished) == ("embedded", "embedded", True)
    assert row.label == "vas ratio=0.5"
    assert (row.reducer, row.settings, row.summary) == ("vas", {"ratio": 0.5}, "ratio=0.5")
    assert row.accuracy == pytest.approx(2 / 3)
    assert row.categories == {"order": 1.0, "color": 0.0}
    assert row.lengths == {"8": pytest.approx(2 / 3)}
    # (64 + 32) / 128, (64 + 16) / 128, (64 + 32) / 128
    assert row.img_memory == pytest.approx((0.75 + 0.625 + 0.75) / 3)
    assert row.flops_ratio == pytest.approx((1000 + 800 + 1000) / 1600 / 3)
    assert row.kv_ratio == pytest.approx((900 + 600 + 900) / 1200 / 3)
    assert row.tokens_per_layer == pytest.approx((64, (32 + 16 + 32) / 3))
    assert row.ttft_speedup == pytest.approx(1.5)  # the middle one of 4, 1.5 and 1
    # Draws of the two questions: (4, 1.5) twice 2.75, all three 1.5, (1) twice 1.
    assert row.ttft_interval == pytest.approx((1.0, 2.75))
    assert row.ttft_ms == pytest.approx(20)
    assert row.peak_memory_mb == 2.5
    assert (row.samples, row.failed, row.questions, row.planned) == (4, 1, 4, 4)
    assert row.seeds == (0,)
    assert keep_all.comparison is None
    assert keep_all.img_memory == keep_all.flops_ratio == keep_all.kv_ratio == 1
    assert (found.failed, table.errors) == (1, ("vas ratio=0.5: VideoError: broken",))


def test_a_question_under_several_seeds_counts_once(tmp_path: Path) -> None:
    seeds = [replace(FASTV, seed=seed) for seed in (0, 1)]
    # q0 right and wrong, q1 right twice, q2 wrong twice, q3 answered under one seed only.
    records = [
        *[answer(seeds[0], n, right) for n, right in enumerate([True, True, False, True])],
        *[answer(seeds[1], n, right) for n, right in enumerate([False, True, False])],
        answer(seeds[1], 3, None, prediction=None, error="x"),
        *answers(KEEP_ALL, [0, 1], 4),
    ]
    table = results(tmp_path, [KEEP_ALL, *seeds], records, 4).table()
    row = table.rows[1]
    assert (row.label, row.seeds, row.samples, row.failed) == ("fastv", (0, 1), 8, 1)
    assert row.accuracy == pytest.approx((0.5 + 1 + 0 + 1) / 4)
    assert row.comparison is not None
    assert row.comparison.pairs == 3  # not q3
    assert row.comparison.difference == pytest.approx((0.5 + 1 + 0) / 3 - 2 / 3)
    assert (row.comparison.first_only, row.comparison.second_only) == (0, 1)


def test_a_difference_that_holds_is_named(tmp_path: Path) -> None:
    # Each video of five: keep_all right on all, fastv on three. 40 of 40 discordant.
    wrong = [n for n in range(100) if n % 5 >= 3]
    found = results(
        tmp_path,
        [KEEP_ALL, FASTV],
        [*answers(KEEP_ALL, range(100)), *answers(FASTV, set(range(100)) - set(wrong))],
    )
    comparison = found.tables[0].rows[1].comparison
    assert comparison is not None
    assert comparison.difference == pytest.approx(-0.4)
    assert comparison.interval == pytest.approx((-0.4, -0.4))  # every video says the same
    assert (comparison.first_only, comparison.second_only, comparison.pairs) == (0, 40, 100)
    assert comparison.p_value == pytest.approx(2 / 2**40)
    assert comparison.verdict == "worse"
    assert found.compare("keep_all", "fastv").verdict == "better"
    assert found.compare("keep_all", "fastv").difference == pytest.approx(0.4)


def test_an_interval_that_holds_zero_names_no_winner(tmp_path: Path) -> None:
    """All discordant questions are of two videos: McNemar's test is sure, the videos are not."""
    # fastv gains ten questions, all about two of twenty videos: p = 2 / 1024 = 0.002, but one
    # resample in eight (0.9^20 = 0.12) draws neither of the two, so that the interval holds 0.
    base = set(range(10, 60))
    found = results(
        tmp_path,
        [KEEP_ALL, FASTV],
        [*answers(KEEP_ALL, base), *answers(FASTV, base | set(range(10)))],
    )
    comparison = found.tables[0].rows[1].comparison
    assert comparison is not None
    assert comparison.difference == pytest.approx(0.1)
    assert comparison.p_value == pytest.approx(2 / 2**10)
    # Standard error: sqrt(20/19 (2 (5 - 0.5)^2 + 18 (0.5)^2)) / 100 = 0.06882; t = 1.4530, and
    # the tables of Student's t with 19 degrees of freedom have 1.328 at 0.2 and 1.729 at 0.1.
    assert 0.1 < comparison.p_clustered < 0.2
    assert comparison.p_adjusted == comparison.p_clustered
    assert comparison.interval is not None
    assert comparison.interval[0] == 0
    assert comparison.interval[1] > 0.15
    assert comparison.verdict == "no difference shown"


def test_interval_and_test_must_agree() -> None:
    assert verdict((0.01, 0.2), 0.04) == "better"
    assert verdict((-0.2, -0.01), 0.04) == "worse"
    assert verdict((0.0, 0.2), 0.001) == "no difference shown"
    assert verdict((-0.2, 0.01), 0.001) == "no difference shown"
    assert verdict((0.01, 0.2), 0.06) == "no difference shown"
    assert verdict(None, 0.001) == "no difference shown"


def test_holm_takes_the_winner_away(tmp_path: Path) -> None:
    """Eight of 8 discordant questions, each of its own video, among 20 rows with no difference."""
    base = set(range(60))
    gained = base | {60, 65, 70, 75, 80, 85, 90, 95}  # p = 2 / 256 = 0.0078
    others = [replace(VAS, label=f"vas {n}", seed=n) for n in range(20)]
    records = [*answers(KEEP_ALL, base), *answers(FASTV, gained)]
    alone = results(tmp_path / "a", [KEEP_ALL, FASTV], records).tables[0].rows[1].comparison
    assert alone is not None
    assert alone.interval is not None
    assert alone.interval[0] > 0
    assert (alone.p_adjusted, alone.verdict) == (pytest.approx(2 / 256), "better")
    for other in others:
        records += answers(other, base)
    table = results(tmp_path / "b", [KEEP_ALL, FASTV, *others], records).tables[0]
    among = table.rows[1].comparison
    assert among is not None
    assert among.interval == alone.interval
    assert among.p_value == pytest.approx(2 / 256)
    assert among.p_adjusted == pytest.approx(21 * 2 / 256)
    assert among.verdict == "no difference shown"
    assert {row.comparison.p_adjusted for row in table.rows[2:] if row.comparison} == {1.0}


def test_comparisons_correct_together(tmp_path: Path) -> None:
    # Wrong: one question in every second video, and one in every video.
    records = [
        *answers(KEEP_ALL, range(100)),
        *answers(VAS, {n for n in range(100) if n % 10}),
        *answers(FASTV, {n for n in range(100) if n % 5}),
    ]
    found = results(tmp_path, [KEEP_ALL, VAS, FASTV], records)
    pairs = found.comparisons()
    assert [(each.first, each.second) for each in pairs] == [
        ("keep_all", "vas ratio=0.5"),
        ("keep_all", "fastv"),
        ("vas ratio=0.5", "fastv"),
    ]
    # p = 2 / 2^10, 2 / 2^20, 2 / 2^10: times 2, 3 and (no smaller than the one before it) 2
    p = [each.p_adjusted for each in pairs]
    assert p == pytest.approx([4 / 2**10, 6 / 2**20, 4 / 2**10])
    against = found.comparisons("vas")
    assert [(each.first, each.second) for each in against] == [
        ("keep_all", "vas ratio=0.5"),
        ("fastv", "vas ratio=0.5"),
    ]
    assert [each.p_adjusted for each in against] == pytest.approx([4 / 2**10] * 2)


def test_unfinished_rows_are_compared_where_both_answered(tmp_path: Path) -> None:
    records = [*answers(KEEP_ALL, range(50)), *answers(FASTV, range(10), 20)]
    found = results(tmp_path, [KEEP_ALL, FASTV, VAS], records)
    keep_all, fastv, vas = found.tables[0].rows
    assert (fastv.questions, fastv.planned, fastv.finished) == (20, 100, False)
    assert keep_all.finished
    assert not found.finished
    assert fastv.comparison is not None
    assert fastv.comparison.pairs == 20
    assert fastv.comparison.difference == pytest.approx(-0.5)  # 10 and 20 of the same 20
    assert (vas.accuracy, vas.accuracy_interval, vas.img_memory, vas.questions) == (None,) * 3 + (
        0,
    )
    assert vas.comparison is not None
    assert (vas.comparison.pairs, vas.comparison.difference) == (0, None)
    assert vas.comparison.verdict == "no difference shown"


def test_a_question_is_asked_when_every_seed_asked_it(tmp_path: Path) -> None:
    seeds = [replace(FASTV, seed=seed) for seed in (0, 1)]
    records = [answer(seeds[0], n) for n in range(4)] + [answer(seeds[1], n) for n in range(3)]
    row = results(tmp_path, [KEEP_ALL, *seeds], records, 4).tables[0].rows[1]
    assert (row.questions, row.planned, row.samples, row.finished) == (3, 4, 7, False)


def test_questions_that_are_no_longer_asked_do_not_count(tmp_path: Path) -> None:
    records: list[Record] = [*answers(KEEP_ALL, range(20)), *answers(FASTV, range(5), 20)]
    records.append(TimingRecord(key(FASTV), "q015", 0, 1.0, 8.0))
    records.append(TimingRecord(key(FASTV), "q005", 0, 1.0, 2.0))
    row = results(tmp_path, [KEEP_ALL, FASTV], records, 10).tables[0].rows[1]
    assert (row.samples, row.planned, row.accuracy) == (10, 10, 0.5)
    assert row.ttft_speedup == 2.0
    assert row.comparison is not None
    assert row.comparison.pairs == 10


def test_a_question_that_changed_is_not_compared(tmp_path: Path) -> None:
    records = [*answers(KEEP_ALL, range(10), 10), *answers(FASTV, range(10), 10)]
    records[3] = replace(records[3], digest="another")
    row = results(tmp_path, [KEEP_ALL, FASTV], records, 10).tables[0].rows[1]
    assert row.comparison is not None
    assert row.comparison.pairs == 9


def test_downsampled_rows_are_shares_of_the_whole_input(tmp_path: Path) -> None:
    half = replace(KEEP_ALL, label="half the frames", row="baselines", frames_share=0.5)
    own = {"visual_tokens": 32, "tokens_per_layer": (32, 32), "flops": 400, "flops_full": 400}
    records = [
        *answers(KEEP_ALL, [], 3),
        *[answer(half, n, kv_bytes=300, kv_bytes_full=300, **own) for n in range(2)],
    ]
    row = results(tmp_path, [KEEP_ALL, half], records, 3).tables[0].rows[1]
    assert row.img_memory == pytest.approx(64 / 128)
    assert row.flops_ratio == pytest.approx(0.4)
    assert row.kv_ratio == pytest.approx(1 / 3)
    assert row.tokens_per_layer == (32, 32)


def test_one_table_for_each_setup_and_target(tmp_path: Path) -> None:
    longer = replace(SETUP, frames=16, benchmark={"use": "embedded", "split": "full"})
    reached = Budget("img_memory", 0.5, reached=0.503)
    missed = Budget("img_memory", 0.25, reached=0.31, note="it keeps the first 10 layers whole")
    cells = [
        KEEP_ALL,
        replace(VAS, label="vas", budget=reached),
        replace(VAS, label="vas", budget=missed, reducers=({"use": "vas", "ratio": 0.1},)),
        replace(KEEP_ALL, setup=longer),
    ]
    found = results(tmp_path, cells, [], None)
    assert [[row.label for row in table.rows] for table in found.tables] == [
        ["keep_all", "vas"],
        ["keep_all", "vas"],
        ["keep_all"],
    ]
    half, quarter, other = found.tables
    assert half.budget == {"measure": "img_memory", "target": 0.5, "tolerance": 0.005}
    assert half.rows[1].budget is not None
    assert half.rows[1].budget["within"] is True
    assert quarter.rows[1].settings == {"ratio": 0.1}
    assert quarter.rows[1].budget == {
        "measure": "img_memory",
        "target": 0.25,
        "tolerance": 0.005,
        "reached": 0.31,
        "within": False,
        "note": "it keeps the first 10 layers whole",
    }
    assert other.budget is None
    assert other.details == "benchmark=embedded(split=full), frames=16"
    assert found.table(target=0.25) is quarter
    assert found.table(frames=16) is other
    assert found.table(benchmark=dict(longer.benchmark)) is other


def test_tables_that_cannot_be_told_apart(tmp_path: Path) -> None:
    cells = [KEEP_ALL, replace(KEEP_ALL, setup=replace(SETUP, frames=16))]
    found = results(tmp_path, cells, [])
    with pytest.raises(ConfigError, match=r"2 of 2 tables .* say which one by frames: 8, 16\."):
        found.table()
    with pytest.raises(ConfigError, match=r"0 of 2 tables have frames=4: .* frames: 8, 16\."):
        found.table(frames=4)
    with pytest.raises(ConfigError, match=r"'frame' is no setting .* did you mean 'frames'"):
        found.compare("a", "b", frame=8)


def test_rows_that_do_not_exist(tmp_path: Path) -> None:
    cells = [KEEP_ALL, VAS, replace(VAS, label="vas ratio=0.7", seed=1), FASTV]
    found = results(tmp_path, cells, [])
    with pytest.raises(ConfigError, match=r"no row 'fasv'; did you mean 'fastv'\?"):
        found.compare("fasv", "keep_all")
    with pytest.raises(ConfigError, match=r"'vas' has 2 rows: .* vas ratio=0\.5, vas ratio=0\.7"):
        found.compare("vas", "keep_all")
    assert found.compare("vas ratio=0.7", "keep_all").pairs == 0


def test_nothing_was_begun(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        found = Results(store)
    assert found.tables == ()
    assert found.document() == {"tables": []}
    with pytest.raises(ConfigError, match="holds no cell"):
        found.table()


def test_results_are_read_from_a_folder(tmp_path: Path) -> None:
    results(tmp_path, [KEEP_ALL], answers(KEEP_ALL, range(60)))
    assert Results.read(tmp_path).tables[0].rows[0].accuracy == 0.6
    with pytest.raises(ConfigError, match="missing"):
        Results.read(tmp_path / "other")


def test_document(tmp_path: Path) -> None:
    records = [*answers(KEEP_ALL, range(100)), *answers(FASTV, range(80))]
    found = results(tmp_path, [KEEP_ALL, FASTV], records)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    (table,) = document["tables"]
    assert table["setup"]["frames"] == 8
    assert table["finished"] is True
    assert table["rows"][0]["comparison"] is None
    assert table["rows"][1]["comparison"]["first_only"] == 0
    assert table["rows"][1]["comparison"]["second_only"] == 20


def test_pandas(tmp_path: Path) -> None:
    records = [*answers(KEEP_ALL, range(100)), *answers(FASTV, range(80))]
    frame = results(tmp_path, [KEEP_ALL, FASTV], records).to_pandas()
    assert frame["label"].tolist() == ["keep_all", "fastv"]
    assert frame["frames"].tolist() == [8, 8]
    assert frame["benchmark.split"].tolist() == ["default", "default"]
    assert frame["settings.layer"].tolist()[1] == 1
    assert frame["accuracy"].tolist() == [1.0, 0.8]
    assert frame["comparison.difference"].tolist()[1] == pytest.approx(-0.2)
    assert frame["comparison.interval.high"].tolist()[1] < 0
    assert frame["categories.order"].tolist() == [1.0, 0.8]
    low, high = frame["accuracy_interval.low"], frame["accuracy_interval.high"]
    assert (low <= frame["accuracy"]).all()
    assert (frame["accuracy"] <= high).all()


def test_pandas_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = results(tmp_path, [KEEP_ALL], [])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"tokenreduce\[export\]"):
        found.to_pandas()
