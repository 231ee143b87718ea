"""The picture of where the time goes, against sums by hand."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tokenreduce.bench.result import Result, Row
from tokenreduce.bench.waterfall import BARS, LABELS, Stage, stages, waterfall

SHAPE = {
    "layers": 3,
    "hidden": 10,
    "intermediate": 20,
    "heads": 2,
    "key_heads": 1,
    "head_dim": 5,
    "vocabulary": 7,
}
PHASES = {
    "total": 1.0,
    "layers": [0.3, 0.3, 0.1],
    "scoring": 0.1,
    "plan": 0.05,
    "apply": 0.05,
    "rest": 0.1,
}
ROW = Row(
    "vas",
    "vas",
    {},
    "sdpa",
    tokens_per_layer=(4, 4, 2),
    phases=PHASES,
    first_token={"minimum": 0.5},
)
RESULT = Result(
    "mini <1>",
    "",
    SHAPE,
    (1, 1, 3),
    3,
    4,
    {},
    {},
    {"matmul_flops_per_second": 1000.0, "attention_flops_per_second": 100.0},
    {"minimum": 0.5},
    [Row("model", None, {}, "sdpa", note="not run"), ROW],
)


def test_layers_with_as_many_tokens_are_one_bar() -> None:
    # Each layer: 10 x (2 x 10 + 2 x 5) + 3 x 10 x 20 = 900 weights; over n tokens 1800 n FLOPs,
    # and 2 x 2 x 10 x n (n + 1) / 2 of attention.
    ideal = {n: 1800 * n / 1000 + 20 * n * (n + 1) / 100 for n in (4, 2)}
    assert stages(RESULT, ROW) == [
        Stage("vision", "vision tower", 0.5),
        Stage("layers", "layers 0 to 1: 4 tokens", 0.6, pytest.approx(2 * ideal[4])),
        Stage("layers", "layer 2: 2 tokens", 0.1, pytest.approx(ideal[2])),
        Stage("scoring", "scoring", 0.1),
        Stage("plan", "planning", 0.05),
        Stage("apply", "applying", 0.05),
        Stage("rest", "embeddings, norm, head", 0.1),
        Stage("rest", "attaching, first token", 0.5),
    ]


def test_each_bar_begins_where_the_one_above_ended() -> None:
    picture = ElementTree.fromstring(waterfall(RESULT))
    bars = [
        r for r in picture.findall(".//{*}rect") if r.get("fill", "").startswith("#") and r.get("x")
    ]
    starts, widths = ([float(b.attrib[name]) for b in bars] for name in ("x", "width"))
    assert starts[0] == LABELS
    ends = [start + width for start, width in zip(starts, widths, strict=True)]
    assert starts[1:] == pytest.approx(ends[:-1], abs=0.2)
    assert ends[-1] == pytest.approx(LABELS + BARS, abs=0.2)  # 2 s, the longest row
    assert widths[1] == pytest.approx(0.6 / 2 * BARS, abs=0.1)


def test_words_of_the_user_are_escaped_and_rows_without_a_profile_left_out() -> None:
    text = waterfall(RESULT)
    assert "mini &lt;1&gt;" in text
    assert "model: " not in text
