"""A bench from request to result, on a model of a few thousand weights."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bench.conftest import request_for
from tokenreduce.bench import runner
from tokenreduce.bench.result import Result, Row
from tokenreduce.embedded import MODEL_DIR
from tokenreduce.errors import ConfigError
from tokenreduce.plugins import load_plugins

PLUGINS = load_plugins(entry_points=[])
QUICK: dict[str, Any] = {"text": 8, "repeats": 2, "decode": 2, "device": "cpu", "dtype": "float32"}


def bench(*labels: str, model: str = "mini", **options: Any) -> Result:
    return runner.run_bench(request_for(model, *labels, **{**QUICK, **options}), PLUGINS)


def rows_of(result: Result) -> dict[str, Row]:
    return {row.label: row for row in result.rows}


def test_a_whole_bench(mini: object) -> None:
    result = bench("keep_all", "fastv")
    rows = rows_of(result)
    assert list(rows) == ["model", "eager", "keep_all", "fastv"]
    assert (result.visual_tokens, result.tokens, result.grid) == (24, 32, (4, 2, 3))
    fastv, model = rows["fastv"], rows["model"]
    # FastV drops 12 of 24 after layer index 1 of 8; text is never dropped.
    assert list(fastv.tokens_per_layer) == [32, 32, *[20] * 6]
    assert fastv.img_memory == (2 * 24 + 6 * 12) / (8 * 24)
    assert (fastv.reducer, model.reducer) == ("fastv", None)
    assert fastv.prefill is not None
    assert model.prefill is not None
    assert len(fastv.prefill["runs"]) == 2
    assert fastv.speedup == min(model.prefill["runs"]) / min(fastv.prefill["runs"])
    assert fastv.efficiency == pytest.approx(fastv.speedup / fastv.ideal_speedup)  # type: ignore[operator]
    assert rows["keep_all"].ideal_speedup == 1
    assert rows["eager"].speedup_over_eager == model.speedup == 1
    assert all(row.decode is not None for row in result.rows)
    assert fastv.peak_memory is not None
    assert result.vision is not None
    assert result.machine["threads"] >= 1


def test_the_ideal_is_the_flops_at_the_measured_rates(mini: object) -> None:
    result = bench("fastv", without=["memory", "phases", "vision", "eager"])
    rates = result.rates
    assert rates is not None

    def seconds(per_layer: list[int]) -> float:
        # hidden 32, MLP 64, 4 query heads and 2 key heads of 8, vocabulary 64
        weights = 32 * (2 * 32 + 2 * 16) + 3 * 32 * 64
        products = sum(2 * n * weights for n in per_layer) + 2 * 32 * 64
        attention = sum(2 * 2 * 32 * n * (n + 1) // 2 for n in per_layer)
        return (
            products / rates["matmul_flops_per_second"]
            + attention / rates["attention_flops_per_second"]
        )

    expected = seconds([32] * 8) / seconds([32, 32, *[20] * 6])
    assert rows_of(result)["fastv"].ideal_speedup == pytest.approx(expected)


def test_parts_can_be_left_out(mini: object) -> None:
    result = bench("vcc", without=["eager", "decode", "memory", "phases", "vision"])
    rows = rows_of(result)
    assert list(rows) == ["model", "vcc"]
    assert result.vision is None
    vcc = rows["vcc"]
    assert (vcc.decode, vcc.peak_memory, vcc.phases, vcc.overhead) == (None,) * 4
    assert vcc.speedup is not None


def test_without_timed_rounds_there_are_profiles_and_memory(mini: object) -> None:
    result = bench("tome", repeats=0, warmup=0)
    tome = rows_of(result)["tome"]
    assert list(rows_of(result)) == ["model", "tome"]
    assert (tome.ttft, tome.speedup, tome.efficiency, result.rates) == (None,) * 4
    assert tome.phases is not None
    spent = tome.phases["scoring"] + tome.phases["plan"] + tome.phases["apply"]
    assert tome.overhead == pytest.approx(spent / tome.phases["total"])
    assert tome.peak_memory is not None
    assert tome.img_memory is not None


def test_memory_alone_says_what_it_is_the_memory_of(mini: object) -> None:
    vcc = rows_of(bench("vcc", repeats=0, warmup=0, without=["phases", "vision"]))["vcc"]
    assert (vcc.phases, list(vcc.tokens_per_layer)) == (None, [32, 32, *[20] * 6])


def test_eager_that_does_not_fit_is_left_out(mini: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "fits", lambda _: False)
    eager = rows_of(bench("fastv"))["eager"]
    assert "does not fit" in eager.note
    assert eager.ttft is None


def test_an_interrupt_keeps_what_there_is(mini: object) -> None:
    def tell(done: int, total: int, what: str) -> None:
        if what == "fastv: timed" and done > total // 3:
            raise KeyboardInterrupt

    request = request_for("mini", "fastv", **{**QUICK, "without": ["eager"]})
    result = runner.run_bench(request, PLUGINS, tell)
    rows = rows_of(result)
    assert result.interrupted
    assert rows["model"].prefill is not None
    assert len(rows["model"].prefill["runs"]) == 2
    assert rows["fastv"].prefill is not None
    assert len(rows["fastv"].prefill["runs"]) == 1
    assert rows["fastv"].peak_memory is None
    json.loads(result.to_json())


def test_progress_ends_where_it_said(mini: object) -> None:
    told: list[tuple[int, int, str]] = []
    request = request_for("mini", "fastv", **QUICK)
    runner.run_bench(request, PLUGINS, lambda *step: told.append(step))
    done, totals, what = zip(*told, strict=True)
    assert done == tuple(range(len(told)))
    assert set(totals) == {len(told) - 1}
    assert what[-1] == "done"


def test_the_document_is_one_line_of_json_without_loss(mini: object) -> None:
    result = bench("vas", "vcc", without=["eager"])
    text = result.to_json()
    assert "\n" not in text
    document = json.loads(text)
    assert [row["label"] for row in document["rows"]] == ["model", "vas", "vcc"]
    assert document["rows"][1]["settings"]["ratio"] == 0.3
    assert document["options"]["pattern"] == "published"


def test_a_checkpoint(mini: object) -> None:
    result = bench("fastv", model=str(MODEL_DIR), frames=4, without=["eager", "memory"])
    fastv = rows_of(result)["fastv"]
    per_frame, rest = divmod(result.visual_tokens, 4)
    assert rest == 0 < per_frame
    assert result.tokens > result.visual_tokens
    assert result.grid is None
    assert result.vision is not None
    assert fastv.tokens_per_layer[0] == result.tokens
    assert fastv.tokens_per_layer[-1] == result.tokens - result.visual_tokens // 2


def test_flash_attention_that_is_not_there_is_named(mini: object) -> None:
    with pytest.raises(ConfigError, match="'flash_attention_2' cannot be used on cpu here"):
        bench("fastv", attention="flash_attention_2")
