"""What the paper reports: settings, time to first token, Img-Memory and accuracy of each method.

Source: "On Exploring Visual Attention Shrinking for Accelerating VLMs for Video Understanding"
(OpenReview oS79Tw3G0c), tables 1 to 6. Its times are of its own code on its own GPU, and none of
its numbers comes with an error bar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

AVERAGE = "average"
"""The column of table 1 that is the mean over its benchmarks."""


@dataclass(frozen=True, slots=True)
class Score:
    """What the paper says about one method on one benchmark.

    Attributes
    ----------
    accuracy
        Share of right answers; None: the paper says ``failed``, no meaningful answers came.
    judged
        Mean mark of a GPT model, from 0 to 5, where it gives one.
    """

    accuracy: float | None
    judged: float | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """One row of the paper.

    Attributes
    ----------
    table
        Its table.
    label
        Short name of the row.
    ttft_speedup
        Time to first token without reduction over that with it; None: not given.
    img_memory
        Visual tokens in the cache, as a share of the unreduced.
    settings
        What the paper's text or its memory figures give for this model and method, where it is not
        what the package ships; ``use`` names the reducer where the label does not.
    scores
        By column of the table.
    row
        Name of the row in the recipe's table, where it is not the label.
    """

    table: int
    label: str
    ttft_speedup: float | None
    img_memory: float | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Score] = field(default_factory=dict)
    row: str = ""

    @property
    def name(self) -> str:
        """Name of the row in the recipe's table."""
        return self.row or self.label


BENCHMARKS: Mapping[str, str] = {
    "MVBench": "lmms:mvbench",
    "VideoMME": "lmms:videomme",
    "EgoSchema": "lmms:egoschema_subset",  # of all its questions no answers are published
    "MLVU": "lmms:mlvu_dev",
    "MSVD-QA": "msvd_qa",
    "LongVideoBench": "lmms:longvideobench_val_v",
    "MovieChat-1K": "lmms:moviechat_global",
}
"""The paper's benchmarks, and what they are called here."""

JUDGED = ("MSVD-QA", "MovieChat-1K")
"""Benchmarks whose answers the paper has a GPT model judge."""


def _tome(merged: int, visual: int, end: float = 24 / 32) -> dict[str, Any]:
    return {"r": merged / visual, "end_layer": end}


SETTINGS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "PLLaVA-7B": {"tome": _tome(48, 2304)},
    "VILA1.5-8B": {"tome": _tome(36, 1568)},
    "LongVA-7B": {"tome": _tome(120, 4608, end=23), "vas": {"start_layer": 5}},
    "VILA1.5-40B": {"fastv": {"layer": 4}, "vas": {"start_layer": 14}},
}
"""The paper's models: by reducer the settings that it has there, where they are not the shipped."""

DEPTHS: Mapping[tuple[str, int], str] = {
    ("pllava", 32): "PLLaVA-7B",
    ("vila", 32): "VILA1.5-8B",
    ("longva", 28): "LongVA-7B",
    ("vila", 60): "VILA1.5-40B",
}
"""Adapter and number of decoder layers of the paper's models."""


def _scores(columns: Sequence[str], text: str) -> dict[str, Score]:
    """Read scores as the paper prints them, in percent: ``75.8/4.0`` is judged as well."""
    return {column: _score(word) for column, word in zip(columns, text.split(), strict=False)}


def _score(word: str) -> Score:
    if word == "failed":
        return Score(None)
    accuracy, _, judged = word.partition("/")
    return Score(_share(float(accuracy)), float(judged) if judged else None)


def _share(percent: float) -> float:
    return round(percent / 100, 4)


_Row = tuple[str, float | None, float, str]


def _rows(
    table: int, model: str, columns: Sequence[str], rows: Sequence[_Row]
) -> tuple[Published, ...]:
    own = SETTINGS[model]
    return tuple(
        Published(
            table,
            label,
            speedup,
            _share(memory),
            _EXTRA.get((table, label), own.get(label, {})),
            _scores(columns, scores),
        )
        for label, speedup, memory, scores in rows
    )


# Start layers that the text does not give and the memory figures do.
_EXTRA: Mapping[tuple[int, str], Mapping[str, Any]] = {
    (2, "vas*"): {"use": "vas", "start_layer": 8},
    (6, "conservative vas"): {"use": "vas", "start_layer": 21},
}

_MAIN = ("MVBench", "VideoMME", "EgoSchema", "MLVU", "MSVD-QA", AVERAGE)
_LENGTHS = ("VideoMME short", "VideoMME medium", "VideoMME long", "VideoMME")
_LONG = ("LongVideoBench", "MovieChat-1K")

_TABLE_1: Mapping[str, Sequence[_Row]] = {
    "PLLaVA-7B": (
        ("keep_all", 1.00, 100, "46.5 43.1 39.2 48.5 75.8/4.0 50.6"),
        ("tome", 1.48, 69.9, "38.0 43.0 22.7 failed failed"),
        ("vcc", 1.67, 53.1, "44.5 41.3 23.8 45.6 failed"),
        ("fastv", 1.46, 53.1, "46.6 43.2 28.4 48.5 72.1/3.8 47.8"),
        ("vas", 1.87, 47.7, "46.9 44.3 34.9 49.0 72.4/3.8 49.5"),
    ),
    "VILA1.5-8B": (
        ("keep_all", 1.00, 100, "48.5 46.0 49.4 47.5 66.4/3.8 51.6"),
        ("tome", 1.39, 70.1, "48.0 45.0 49.7 45.0 62.2/3.6 50.0"),
        ("vcc", 1.74, 53.1, "48.3 45.6 49.6 46.6 63.0/3.6 50.6"),
        ("fastv", 1.42, 53.1, "48.2 45.2 48.9 34.9 65.5/3.7 48.5"),
        ("vas", 1.96, 48.5, "48.5 46.1 49.8 46.9 65.7/3.7 51.4"),
    ),
    "LongVA-7B": (
        ("keep_all", 1.00, 100, "50.7 52.2 44.0 56.9 61.7/3.4 53.1"),
        ("tome", 1.61, 65.5, "50.5 51.6 43.8 55.8 55.2/3.1 51.4"),
        ("vcc", 1.85, 53.6, "48.2 51.6 41.7 48.6 58.3/3.3 49.7"),
        ("fastv", 1.33, 53.6, "failed 29.8 20.7 failed failed"),
        ("vas", 2.10, 45.3, "48.3 51.7 42.9 51.0 57.6/3.2 50.3"),
    ),
}
_TABLE_2 = (
    ("keep_all", 1.00, 100.0, "68.3 57.1 51.7 59.0"),
    ("vas", 2.63, 37.1, "66.3 55.3 50.6 56.4"),
    ("vas*", 4.16, 26.8, "61.2 53.1 46.8 53.7"),
)
_TABLE_3 = (
    ("keep_all", 1.00, 100.0, "46.0"),  # of table 1: table 3 leaves it out
    ("vas", 1.96, 47.8, "46.1"),
    ("random", 1.22, 60.0, "8.7"),
    ("spatial_average", 1.22, 60.0, "45.9"),
    ("temporal_average", 1.22, 60.0, "45.4"),
)
_TABLE_4 = (
    (20, 3, 1.70, 42.7, 48.3),
    (30, 3, 2.06, 39.6, 48.2),
    (40, 3, 2.23, 32.5, 47.7),
    (50, 3, 2.36, 27.8, 47.5),
    (20, 4, 1.57, 59.0, 48.7),
    (30, 4, 2.02, 42.4, 48.5),
    (40, 4, 2.11, 37.9, 47.1),
    (50, 4, 2.30, 30.8, 46.2),
)
_TABLE_5: Mapping[str, Sequence[_Row]] = {
    "VILA1.5-8B": (
        ("keep_all", None, 100, "47.1 40.0/2.9"),
        ("tome", None, 70.1, "46.3 42.3/2.9"),
        ("vcc", None, 53.1, "46.8 41.7/3.0"),
        ("fastv", None, 53.1, "46.8 39.7/2.9"),
        ("vas", None, 47.9, "47.4 42.5/3.0"),
    ),
    "LongVA-7B": (
        ("keep_all", None, 100, "52.6 40.7/2.7"),
        ("tome", None, 65.5, "52.1 40.5/2.7"),
        ("vcc", None, 53.6, "52.1 39.9/2.7"),
        ("vas", None, 47.5, "52.4 40.3/2.7"),
    ),
}
_TABLE_6 = (
    ("keep_all", 1.00, 100.0, "68.3 57.1 51.7 59.0"),
    ("fastv", 1.53, 54.2, "65.4 56.1 51.7 57.8"),
    ("conservative vas", 1.84, 48.6, "68.0 56.2 52.4 58.8"),
)


def _sweep() -> Iterator[Published]:
    """Yield the rows of table 4: ratio and interval of VAS, from layer index 5 on."""
    base = Score(_share(48.5))  # of table 1: table 4 leaves it out
    yield Published(4, "keep_all", 1.0, 1.0, {}, {"MVBench": base})
    for percent, interval, speedup, memory, accuracy in _TABLE_4:
        ratio = percent / 100
        yield Published(
            4,
            f"vas-{percent}-{interval}",
            speedup,
            _share(memory),
            {"use": "vas", "ratio": ratio, "interval": interval, "start_layer": 5},
            {"MVBench": Score(_share(accuracy))},
            f"vas ratio={ratio} interval={interval}",
        )


TABLES: Mapping[int, Mapping[str, Sequence[Published]]] = {
    1: {model: _rows(1, model, _MAIN, rows) for model, rows in _TABLE_1.items()},
    2: {"VILA1.5-40B": _rows(2, "VILA1.5-40B", _LENGTHS, _TABLE_2)},
    3: {"VILA1.5-8B": _rows(3, "VILA1.5-8B", ("VideoMME",), _TABLE_3)},
    4: {"VILA1.5-8B": tuple(_sweep())},
    5: {model: _rows(5, model, _LONG, rows) for model, rows in _TABLE_5.items()},
    6: {"VILA1.5-40B": _rows(6, "VILA1.5-40B", _LENGTHS, _TABLE_6)},
}
"""Number of a table to the paper's models to their rows, the unreduced one first."""


def _timed() -> Mapping[str, Mapping[str, Published]]:
    found: dict[str, dict[str, Published]] = {model: {} for model in SETTINGS}
    for table in TABLES.values():
        for model, rows in table.items():
            for row in rows:
                if row.label != "keep_all" and row.ttft_speedup is not None:
                    found[model].setdefault(row.label, row)
    return found


TIMED: Mapping[str, Mapping[str, Published]] = _timed()
"""The paper's models to the first row of each label that has a time to first token."""
