"""Grids: which cells they stand for, and everything that is wrong with one, at once."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from tokenreduce.ablations.grid import Grid, parse_grid
from tokenreduce.ablations.options import Timing
from tokenreduce.cells import Budget, Cell
from tokenreduce.config import Classes
from tokenreduce.errors import ConfigError
from tokenreduce.results.grouping import TableCells, group


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeepAll(Strict):
    name: ClassVar[str] = "keep_all"


class Drop(Strict):
    name: ClassVar[str] = "drop"
    budget_fields: ClassVar[dict[str, tuple[float, float]]] = {"ratio": (0, 0.9)}
    ratio: float = Field(0.5, ge=0, lt=1)
    layer: int = 1
    queries: Literal["last", "text", "all"] = "last"
    weights: tuple[float, ...] = (1.0, 2.0)


class Random(Strict):
    name: ClassVar[str] = "random"
    ratios: float = Field(0.5, ge=0, lt=1)


class Quiz(Strict):
    name: ClassVar[str] = "embedded"
    split: Literal["default", "full"] = "default"


CLASSES = Classes({"keep_all": KeepAll, "drop": Drop, "random": Random}, {"embedded": Quiz})


def parse(reducers: Any = None, /, **data: Any) -> Grid:
    given = {"drop": None} if reducers is None else reducers
    return parse_grid({"reducers": given, **data}, CLASSES, "'grid.yaml'")


def errors(reducers: Any = None, /, **data: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(reducers, **data)
    head, *lines = str(caught.value).splitlines()
    assert head == f"{len(lines)} error{'s' if len(lines) > 1 else ''} in 'grid.yaml':"
    return [line.strip() for line in lines]


def labels(grid: Grid) -> list[str]:
    return [cell.label for cell in grid.cells]


def tables(grid: Grid) -> list[TableCells]:
    return group([(str(number), cell) for number, cell in enumerate(grid.cells)])


def cells_of(table: TableCells) -> list[Cell]:
    return [cell for row in table.rows.values() for _, cell in row]


def swept(values: Any) -> dict[str, Any]:
    return {"sweep": values}


def settings(cell: Cell, *names: str) -> tuple[Any, ...]:
    return tuple(cell.reducers[0][name] for name in names)


def test_without_sweeps_it_is_what_compare_runs() -> None:
    grid = parse({"drop": {"ratio": 0.3}, "two": [{"use": "drop"}, {"use": "random"}]})
    baseline, drop, two = grid.cells
    assert (baseline.label, baseline.reducers) == ("keep_all", ({"use": "keep_all"},))
    assert (drop.label, drop.row, drop.summary) == ("drop", "drop", "ratio=0.3")
    assert drop.reducers == (
        {"use": "drop", "ratio": 0.3, "layer": 1, "queries": "last", "weights": [1.0, 2.0]},
    )
    assert two.reducer == "drop+random"
    assert drop.setup.benchmark == {"use": "embedded", "split": "default"}
    assert (drop.setup.model, drop.setup.dtype, drop.setup.frames) == ("embedded", "float32", None)
    assert grid.timing == Timing(samples=8, repeats=5)
    assert (grid.pictures, grid.limit, grid.slice, grid.notes) == (0, None, None, ())


def test_sweeps_of_a_row_make_a_product_the_last_one_fastest() -> None:
    grid = parse({"d": {"use": "drop", "ratio": swept([0.2, 0.4]), "layer": swept([3, 1, 2])}})
    assert labels(grid) == [
        "keep_all",
        "d ratio=0.2 layer=3",
        "d ratio=0.2 layer=1",
        "d ratio=0.2 layer=2",
        "d ratio=0.4 layer=3",
        "d ratio=0.4 layer=1",
        "d ratio=0.4 layer=2",
    ]
    assert {cell.row for cell in grid.cells[1:]} == {"d"}
    assert settings(grid.cells[2], "ratio", "layer") == (0.2, 1)
    assert grid.cells[2].summary == "drop ratio=0.2 layer=1"


def test_zipped_sweeps_go_together_and_stand_where_the_first_of_them_does() -> None:
    row = {
        "ratio": swept([0.2, 0.4]),
        "queries": swept(["last", "text"]),
        "layer": swept([1, 2]),
        "zip": [["layer", "ratio"]],
    }
    assert labels(parse({"drop": row})) == [
        "keep_all",
        "drop ratio=0.2 queries=last layer=1",
        "drop ratio=0.2 queries=text layer=1",
        "drop ratio=0.4 queries=last layer=2",
        "drop ratio=0.4 queries=text layer=2",
    ]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"from": 0.1, "to": 0.9, "step": 0.2}, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ({"from": 0.1, "to": 0.3, "step": 0.1}, [0.1, 0.2, 0.3]),
        ({"from": 0.7, "to": 0.1, "step": -0.3}, [0.7, 0.4, 0.1]),
        ({"from": 0, "to": 0.6, "count": 3}, [0.0, 0.3, 0.6]),
        ({"from": 0.1, "to": 0.3, "count": 7}, [0.1, 2 / 15, 1 / 6, 0.2, 7 / 30, 4 / 15, 0.3]),
    ],
)
def test_ranges_have_both_ends_and_exact_decimals(
    written: dict[str, Any], values: list[float]
) -> None:
    cells = parse({"drop": {"ratio": swept(written)}}).cells[1:]
    assert [settings(cell, "ratio")[0] for cell in cells] == values
    assert cells[1].label == f"drop ratio={values[1]}"


@pytest.mark.parametrize("written", [{"step": 2}, {"count": 3}])
def test_a_range_of_integers_is_integers(written: dict[str, int]) -> None:
    grid = parse({"drop": {"layer": swept({"from": 1, "to": 5, **written})}})
    assert labels(grid)[1:] == ["drop layer=1", "drop layer=3", "drop layer=5"]


@given(
    first=st.integers(0, 9000), step=st.integers(1, 999), steps=st.integers(1, 30), by=st.booleans()
)
def test_any_decimal_range_is_what_the_decimals_are_by_hand(
    first: int, step: int, steps: int, by: bool
) -> None:
    # Ten-thousandths, so that every value is a decimal of four digits.
    numbers = [first + step * number for number in range(steps + 1) if first + step * number < 9999]
    if len(numbers) < 2:
        return
    texts = [f"{number // 10000}.{number % 10000:04d}" for number in numbers]
    size = {"step": float(f"0.{step:04d}")} if by else {"count": len(numbers)}
    written = {"from": float(texts[0]), "to": float(texts[-1]), **size}
    cells = parse({"drop": {"ratio": swept(written)}}).cells[1:]
    assert [Fraction(str(settings(cell, "ratio")[0])) for cell in cells] == [
        Fraction(text) for text in texts
    ]


def test_conditions_leave_out_and_keep() -> None:
    row = {"ratio": swept([0.1, 0.2, 0.3, 0.4]), "layer": swept([1, 2, 3])}

    def left(**conditions: Any) -> list[tuple[float, int]]:
        return [
            settings(cell, "ratio", "layer") for cell in parse({"drop": row | conditions}).cells[1:]
        ]

    assert left(**{"except": [{"ratio": [0.1, 0.2]}, {"layer": 3, "ratio": 0.3}]}) == [
        (0.3, 1),
        (0.3, 2),
        (0.4, 1),
        (0.4, 2),
        (0.4, 3),
    ]
    assert left(only=[{"ratio": {"from": 0.2, "to": 0.3}, "layer": 1}, {"layer": 3}]) == [
        (0.1, 3),
        (0.2, 1),
        (0.2, 3),
        (0.3, 1),
        (0.3, 3),
        (0.4, 3),
    ]
    # A setting that is not written has its default: `queries` is `last` everywhere.
    both = {
        "only": [{"queries": "last", "ratio": 0.2}],
        "except": [{"layer": {"from": 2, "to": 9}}],
    }
    assert left(**both) == [(0.2, 1)]


def test_sweeps_stand_in_lists_and_in_composed_rows() -> None:
    stages = [
        {"use": "drop", "ratio": swept([0.1, 0.2])},
        {"use": "random", "ratios": swept([0.3, 0.4])},
    ]
    grid = parse({"both": stages, "w": {"use": "drop", "weights": [1, swept([2, 3])]}})
    assert labels(grid)[1:] == [
        "both 0.ratio=0.1 1.ratios=0.3",
        "both 0.ratio=0.1 1.ratios=0.4",
        "both 0.ratio=0.2 1.ratios=0.3",
        "both 0.ratio=0.2 1.ratios=0.4",
        "w weights.1=2",
        "w weights.1=3",
    ]
    assert grid.cells[1].summary == "drop(ratio=0.1) + random(ratios=0.3)"
    zipped = {"use": stages, "zip": [["0.ratio", "1.ratios"]], "except": [{"1.ratios": 0.3}]}
    assert labels(parse({"both": zipped}))[1:] == ["both 0.ratio=0.2 1.ratios=0.4"]


def test_a_whole_reducer_can_be_swept() -> None:
    either = swept([{"use": "drop", "ratio": 0.1}, {"use": "random"}])
    assert labels(parse({"x": either}))[1:] == ["x drop(ratio=0.1)", "x random"]
    assert labels(parse({"x": [either, {"use": "drop"}]}))[1:] == [
        "x 0=drop(ratio=0.1)",
        "x 0=random",
    ]
    assert labels(parse({"x": {"use": swept(["drop", "random"])}}))[1:] == [
        "x use=drop",
        "x use=random",
    ]


def test_setups_are_swept_zipped_and_left_out_too(tmp_path: Any) -> None:
    grid = parse(
        model=swept(["embedded", str(tmp_path)]),
        frames=swept([8, 16]),
        dtype=swept(["float32", "bfloat16"]),
        benchmark={"use": "embedded", "split": swept(["default", "full"])},
        zip=[["model", "dtype"]],
        **{
            "except": [{"benchmark.split": "full", "frames": 8}, {"model": "embedded", "frames": 8}]
        },
    )
    assert [
        (
            t.setup.model == "embedded",
            t.setup.dtype,
            t.setup.frames,
            t.setup.benchmark["split"],
            list(t.rows),
        )
        for t in tables(grid)
    ] == [
        (True, "float32", 16, "default", ["keep_all", "drop"]),
        (True, "float32", 16, "full", ["keep_all", "drop"]),
        (False, "bfloat16", 8, "default", ["keep_all", "drop"]),
        (False, "bfloat16", 16, "default", ["keep_all", "drop"]),
        (False, "bfloat16", 16, "full", ["keep_all", "drop"]),
    ]


def test_a_benchmark_is_met_by_its_name_or_by_part_of_its_settings() -> None:
    data = {"benchmark": swept(["embedded", {"use": "embedded", "split": "full"}])}
    for condition in ({"benchmark": {"split": "full"}}, {"benchmark.split": "full"}):
        (table,) = tables(parse(**data, only=[condition]))
        assert table.setup.benchmark["split"] == "full"
    assert errors(**data, **{"except": [{"benchmark": "embedded"}]}) == [
        "configuration: the conditions of the grid leave none of its cells: change them."
    ]


def test_each_seed_is_a_cell_and_the_baseline_is_first_whatever_its_place() -> None:
    grid = parse({"drop": {}, "plain": {"use": "keep_all"}}, seeds=[3, 5])
    assert [(cell.label, cell.seed) for cell in grid.cells] == [
        ("plain", 3),
        ("plain", 5),
        ("drop", 3),
        ("drop", 5),
    ]


def test_a_budget_makes_a_table_for_each_target_with_one_baseline_for_all() -> None:
    budget = {"img_memory": swept([0.25, 0.5]), "slice": 0.2, "tolerance": 0.01}
    grid = parse({"drop": {"layer": swept([1, 2])}}, budget=budget)
    assert grid.slice == 0.2
    assert labels(grid) == ["keep_all"] + ["drop layer=1", "drop layer=2"] * 2
    assert grid.cells[0].budget is None
    assert grid.cells[1].budget == Budget("img_memory", 0.25, 0.01)
    quarter, half = tables(grid)
    assert quarter.budget == Budget("img_memory", 0.25, 0.01)
    assert half.budget == Budget("img_memory", 0.5, 0.01)
    assert cells_of(quarter) == [*grid.cells[:3]]
    assert cells_of(half) == [grid.cells[0], *grid.cells[3:]]


def test_baselines_add_three_rows() -> None:
    grid = parse(baselines=True)
    assert labels(grid) == ["keep_all", "drop", "random", "fewer frames", "smaller frames"]
    _, _, random, fewer, smaller = grid.cells
    assert settings(random, "ratios") == (0.5,)
    assert (fewer.frames_share, fewer.size_share, fewer.reducer) == (0.5, 1, "keep_all")
    assert (smaller.frames_share, smaller.size_share) == (1, 0.5)
    assert fewer.downsampled
    assert fewer.summary == "frames_share=0.5"


def test_baselines_under_a_budget_show_the_share_that_meets_it() -> None:
    grid = parse(baselines=True, budget={"kv_bytes": swept([0.25, 0.36])})
    first, second = tables(grid)
    assert [(c.frames_share, c.size_share) for c in cells_of(first)[-2:]] == [(0.25, 1), (1, 0.5)]
    assert [(c.frames_share, c.size_share) for c in cells_of(second)[-2:]] == [(0.36, 1), (1, 0.6)]
    assert all(cell.budget == Budget("kv_bytes", 0.36) for cell in cells_of(second)[1:])


def test_an_added_row_takes_no_label_that_is_there() -> None:
    grid = parse({"random": {"ratios": 0.2}, "fewer frames": {"use": "drop"}}, baselines=True)
    assert labels(grid)[3:] == ["random (2)", "fewer frames (2)", "smaller frames"]
    same = parse({"random": {}}, baselines=True)
    assert labels(same) == ["keep_all", "random", "fewer frames", "smaller frames"]
    assert same.notes == ()


def test_equal_configurations_count_once_and_are_named() -> None:
    grid = parse(
        {"drop": {"ratio": swept([0.5, 0.2, 0.5])}, "again": {"use": "drop", "layer": 1}},
        seeds=[1, 1],
        frames=swept([8, 8]),
    )
    assert [(cell.label, cell.seed) for cell in grid.cells] == [
        ("keep_all", 1),
        ("drop ratio=0.5", 1),
        ("drop ratio=0.2", 1),
    ]
    assert grid.notes == (
        "the setup frames=8 stands twice in the grid and counts once.",
        "'drop ratio=0.5' stands twice in the grid and counts once.",
        "'again' is the same as 'drop ratio=0.5' in the grid and counts once.",
        "a seed stands twice in the grid and counts once.",
    )


def test_options_are_read() -> None:
    grid = parse(timing=False, pictures={"samples": 3}, limit=10, plugins={"block": ["x"]})
    assert grid.timing is None
    assert (grid.pictures, grid.limit, grid.plugins.block) == (3, 10, ("x",))
    assert parse(timing=True, pictures=True).timing == Timing(samples=8, repeats=5)
    assert parse(pictures=True).pictures == 2
    assert parse(timing={"repeats": 2}).timing == Timing(samples=8, repeats=2)


def test_all_errors_come_at_once_with_their_path() -> None:
    found = errors(
        {
            "drop": {"ratio": swept([0.2, 1.5, 7]), "layr": swept([1])},
            "range": {"use": "drop", "ratio": swept({"from": 0.1, "to": 0.9, "step": 0.3})},
            "none": {"use": "drop", "layer": swept(3), "ratio": swept([2])},
            "zip": {"use": "drop", "ratio": swept([0.1, 0.2]), "layer": swept([1, 2, 3]),
                    "zip": [["ratio", "layer"], ["queries"]]},
            "names": {"use": "drop", "except": [{"ratoi": 0.5}, {}], "only": {"ratio": 1}},
            "unmet": {"use": "drop", "only": [{"ratio": 0.2}]},
            "emptied": {"use": "drop", "except": [{"ratio": {"from": 0, "to": 1}}]},
            "list": {"use": [{"use": "drop", "ratio": swept([3])}], "ratio": 1},
            "pool": swept(["drop"]),
            4: {},
        },
        modle=1,
        frames=swept([8, 0]),
        model=swept(["embedded", "no/such/folder"]),
        benchmark=swept([{"split": "ful"}, "embeded"]),
        seeds=swept([0, 1]),
        limit=0,
        timing={"repeats": 0},
        pictures={"sample": 1},
        baselines="yes please",
        budget={"img_memory": swept([0.5, 2]), "flops": 0.3},
        zip=[["frames", "dtype"]],
    )  # fmt: skip
    drop = "Known: ratio, layer, queries, weights."
    assert found == [
        "budget: {'img_memory': 0.5, 'flops': 0.3} is not valid: give one of img_memory, flops, "
        "kv_bytes.",
        "budget.img_memory: 2 is not valid: should be less than 1.",
        "seeds: a sweep cannot stand here: a grid takes one value.",
        "zip.0: no sweep is called 'dtype': Known: frames, model, benchmark.",
        "reducers.4: the label 4 is no text: quote it.",
        "reducers.range.ratio.sweep: steps of 0.3 from 0.1 end at 0.7, not at 0.9: both ends "
        "belong to a range.",
        "reducers.none.layer: 3 is nothing to sweep: write a list of values, {from, to, step} or "
        "{from, to, count}.",
        "reducers.zip.zip.0: 'ratio' has 2 values and 'layer' has 3: sweeps that go together need "
        "as many.",
        "reducers.zip.zip.1: no sweep is called 'queries': Known: ratio, layer.",
        "reducers.names.only: {'ratio': 1} is no list of partial settings, such as [{ratio: 0.5}].",
        "reducers.names.except.1: {} is no partial setting: write {ratio: 0.5}.",
        "reducers.list.ratio: settings of composed reducers stand in their list.",
        "limit: 0 is not valid: should be greater than or equal to 1.",
        "timing.repeats: 0 is not valid: should be greater than or equal to 1.",
        "pictures.sample: there is no such setting (1): did you mean 'samples'? Known: samples.",
        "baselines: 'yes please' is not valid: Known: True, False.",
        "modle: there is no such setting (1): did you mean 'model'? Known: model, model_options, "
        "frames, max_new_tokens, dtype, device, seeds, limit, positions, plugins, turn, timing, "
        "pictures, baselines, benchmark, reducers, budget, zip, only, except.",
        "benchmark.split: 'ful' is not valid: did you mean 'full'? Known: default, full.",
        "frames: 0 is not valid: should be greater than or equal to 1.",
        "model: 'no/such/folder' is neither 'embedded' nor a folder: give the folder of a "
        "checkpoint that was downloaded.",
        "benchmark.use: no benchmark is called 'embeded': did you mean 'embedded'? Known: "
        "embedded.",
        f"reducers.drop.layr: there is no such setting (1): did you mean 'layer'? {drop}",
        "reducers.drop.ratio: 1.5 is not valid: should be less than 1.",
        "reducers.drop.ratio: 7 is not valid: should be less than 1.",
        "reducers.none.ratio: 2 is not valid: should be less than 1.",
        "reducers.names.except.0: no setting is called 'ratoi': did you mean 'ratio'? Known: use, "
        "ratio, layer, queries, weights.",
        "reducers.unmet.only.0: {'ratio': 0.2} matches nothing: leave it out.",
        "reducers.unmet: its conditions leave none of its cells: change them, or leave out the "
        "row.",
        "reducers.emptied: its conditions leave none of its cells: change them, or leave out the "
        "row.",
        "reducers.list.use.0.ratio: 3 is not valid: should be less than 1.",
        "reducers.pool: 'drop' is no mapping of settings: write {use: NAME, ...}.",
    ]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ([], "[] is nothing to sweep"),
        ({"from": 1}, "{'from': 1} is nothing to sweep"),
        ([1, {"sweep": [2]}], "a sweep cannot stand in a sweep: write out its values."),
        ({"from": 1, "to": 2, "step": 0}, "steps of 0 do not lead from 1 to 2."),
        ({"from": 1, "to": 2, "step": -1}, "steps of -1 do not lead from 1 to 2."),
        ({"from": 1, "to": 2, "count": 1}, "a whole number of values from 2 on, not 1."),
        ({"from": 1, "to": 2, "count": 2.5}, "a whole number of values from 2 on, not 2.5."),
        ({"from": 1, "to": "x", "count": 2}, "'x' is no number."),
        ({"from": True, "to": 2, "count": 2}, "True is no number."),
        ({"from": 0, "to": float("inf"), "step": 1}, "inf is no number."),
        ({"from": 0, "to": 1, "step": 1e-9}, "a range of 1,000,000,001 values: 100,000 are"),
    ],
)
def test_what_is_nothing_to_sweep_is_said(written: Any, message: str) -> None:
    (line,) = errors({"drop": {"layer": swept(written)}})
    assert line.startswith("reducers.drop.layer")
    assert message in line


@pytest.mark.parametrize(
    ("zips", "message"),
    [
        (["ratio", "layer"], "zip: ['ratio', 'layer'] is no list of lists of names"),
        ([["ratio", "ratio"]], "zip.0: 'ratio' is zipped twice: leave one out."),
        ([["ratio", "layer"], ["layer"]], "zip.1: 'layer' is zipped twice: leave one out."),
    ],
)
def test_zips_that_are_none_are_said(zips: Any, message: str) -> None:
    (line,) = errors({"drop": {"ratio": swept([0.1]), "layer": swept([1]), "zip": zips}})
    assert line.startswith(f"reducers.drop.{message}")


def test_an_absurd_size_is_an_error_that_says_how_many() -> None:
    values = {"from": 1, "to": 60, "step": 1}
    row = {"layer": swept(values), "weights": [swept(values), swept(values)]}
    assert errors({"drop": row}, seeds=[0, 1], frames=swept([8, 16])) == [
        "configuration: 864,000 cells before conditions: 100,000 are the most."
    ]


def test_a_budget_and_a_sweep_of_what_it_turns_exclude_each_other() -> None:
    assert errors({"drop": {"ratio": swept([0.1, 0.2])}}, budget={"flops": 0.5}) == [
        "reducers.drop.ratio: the budget turns this setting: leave out the sweep, or the budget."
    ]


def test_two_rows_cannot_have_one_label() -> None:
    rows = {"drop": {"layer": swept([1, 2])}, "drop layer=2": {"use": "drop", "layer": 7}}
    assert errors(rows) == [
        "reducers.drop layer=2: two rows are called 'drop layer=2': rename one of them."
    ]


def test_the_baselines_label_is_the_baselines() -> None:
    assert errors({"keep_all": {"use": "drop"}}) == [
        "reducers.keep_all: this label is the baseline's: give the row another."
    ]


def test_a_setting_written_true_is_no_one() -> None:
    (line,) = errors({"drop": {"except": [{"layer": True}]}})
    assert line == "reducers.drop.except.0: {'layer': True} matches nothing: leave it out."
