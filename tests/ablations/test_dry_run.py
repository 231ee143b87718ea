"""Dry runs: counts and costs by hand, and no weight is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from fractions import Fraction
from io import StringIO
from math import floor
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.adapters.family import families
from tests.adapters.published_vila import publish
from tokenreduce.ablations.dry_run import DryRun, dry_run
from tokenreduce.ablations.forecast import Forecast, Forecaster, apart, shared
from tokenreduce.ablations.grid import parse_grid
from tokenreduce.adapter import ModelAdapter
from tokenreduce.config import Classes
from tokenreduce.cost import DecoderShape
from tokenreduce.course import Variant
from tokenreduce.embedded import MODEL_DIR
from tokenreduce.errors import AdapterError, ConfigError
from tokenreduce.layout import Layout
from tokenreduce.plugins import load_plugins
from tokenreduce.pretrained import load_pretrained
from tokenreduce_model_adapters.vila import Vila
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.vas import Vas

REGISTRY = load_plugins(entry_points=[]).registry
CLASSES = Classes(REGISTRY.reducers, REGISTRY.benchmarks)


def run(**data: Any) -> DryRun:
    return dry_run(parse_grid(data, CLASSES, "the grid"), REGISTRY)


def forecasts(layers: int, layout: Layout, *rows: Any) -> list[Forecast]:
    return Forecaster(layers).forecasts(layout, [Variant((row,)) for row in rows])


def test_tokens_of_each_layer_and_what_cells_share() -> None:
    # 24 visual tokens and 16 of text, six layers.
    layout = Layout.video(start=4, frames=2, rows=3, columns=4, length=40)
    rows = [KeepAll(), FastV(layer=1, ratio=0.5), FastV(layer=1, ratio=0.25), FastV(layer=3)]
    found = forecasts(6, layout, *rows)
    assert [each.tokens for each in found] == [
        (40,) * 6,
        (40, 40, 28, 28, 28, 28),
        (40, 40, 34, 34, 34, 34),
        (40, 40, 40, 40, 28, 28),
    ]
    assert found[2].visual == (24, 24, 18, 18, 18, 18)
    assert apart(found) == 240 + 192 + 216 + 216
    # Layers 0 and 1 once; 2 and 3 once for the first row and the last, which part after layer 3.
    assert shared(found) == 2 * 40 + 2 * (40 + 28 + 34) + 2 * (40 + 28 + 34 + 28)


def test_cells_part_where_their_random_choices_do() -> None:
    layout = Layout.video(start=0, frames=2, rows=4, columns=4, length=40)
    row = Random(layers=(1, 3), ratios=0.5)
    variants = [Variant((row,), seed) for seed in (0, 0, 1)]
    first, same, other = Forecaster(5).forecasts(layout, variants)
    assert first.tokens == same.tokens == other.tokens == (40, 40, 24, 24, 16)
    assert shared([first, same]) == 144
    assert shared([first, other]) == 2 * 40 + 2 * (24 + 24 + 16)


def forced(ratio: str, interval: int, tokens: int, layers: int, start: int) -> list[int]:
    """Return the tokens of each layer when a share goes every `interval` layers."""
    counts, left, since = [], tokens, 0
    for layer in range(layers):
        counts.append(left)
        since += 1
        if start <= layer <= layers - 5 and since >= interval:
            left, since = floor(left * (1 - Fraction(ratio)) + Fraction(1, 2)), 0
    return counts


def tree(rows: Sequence[Sequence[int]]) -> int:
    """Return the tokens over layers, each once for rows whose counts are equal up to there."""
    layers = range(len(rows[0]))
    return sum(row[-1] for layer in layers for row in {tuple(r[: layer + 1]) for r in rows})


def test_the_eight_cells_of_a_paper_s_table_share_half_of_their_layers() -> None:
    layout = Layout.video(start=0, frames=8, rows=5, columns=5, length=201)
    cells = [(ratio, interval) for interval in (3, 4) for ratio in ("0.2", "0.3", "0.4", "0.5")]
    rows = [
        Vas(ratio=float(ratio), interval=interval, start_layer=5, axis="tokens")
        for ratio, interval in cells
    ]
    found = forecasts(32, layout, *rows)
    by_hand = [forced(ratio, interval, 200, 32, 5) for ratio, interval in cells]
    assert [list(each.visual) for each in found] == by_hand
    # One token of text runs through all layers; no two of these rows have equal counts by chance.
    with_text = [[count + 1 for count in counts] for counts in by_hand]
    assert apart(found) == sum(map(sum, with_text))
    assert shared(found) == tree(with_text)
    assert 0.5 < shared(found) / apart(found) < 0.54


def test_flops_and_bytes_of_a_schedule() -> None:
    shape = DecoderShape(
        layers=2, hidden=4, intermediate=6, heads=2, key_heads=1, head_dim=2, vocabulary=10
    )
    forecast = Forecast((5, 3), (4, 2), (0, 1))
    # Per token: queries 16, keys 8, values 8, output 16, three matrices of the MLP 24 each.
    products = 2 * (5 + 3) * (16 + 8 + 8 + 16 + 72)
    attention = 2 * 2 * 4 * (15 + 6)
    assert forecast.flops(shape) == products + attention + 2 * 4 * 10
    assert forecast.kv_bytes(shape, 2) == 2 * 2 * 2 * (5 + 3)


@pytest.mark.parametrize(
    ("name", "depends"),
    [("fastv", False), ("random", False), ("evs", False), ("vas", True), ("frame_fusion", True)],
)
def test_what_depends_on_the_video_is_known(name: str, depends: bool) -> None:
    reducer = REGISTRY.reducer(name)()
    assert Forecaster(14).depends_on_content([reducer]) == depends


def test_a_grid_on_the_embedded_model() -> None:
    cost = run(
        reducers={"fastv": {"layer": 6, "ratio": 0.5}, "vas": {}},
        baselines=True,
        frames=8,
        limit=10,
        seeds=[0, 1],
    )
    (setup,) = cost.setups
    assert setup.questions == 10
    labels = ["keep_all", "fastv", "vas", "random", "fewer frames", "smaller frames"]
    assert [(cell.label, cell.seed) for cell in setup.cells] == [
        (label, seed) for label in labels for seed in (0, 1)
    ]
    keep_all, fastv, vas, _, fewer, smaller = setup.cells[::2]
    # Fourteen layers; each frame is a grid of tokens, as many in eight frames as in four twice.
    assert keep_all.visual_tokens == 2 * fewer.visual_tokens == smaller.visual_tokens
    assert fastv.img_memory == pytest.approx((7 + 7 * 0.5) / 14)
    assert (keep_all.img_memory, fewer.img_memory) == (1, 0.5)
    assert [keep_all.forced, fastv.forced, vas.forced] == [False, False, True]
    # Two of keys and values, four heads of 32 numbers of four bytes, fourteen layers.
    text = keep_all.kv_bytes / (2 * 128 * 4 * 14) - keep_all.visual_tokens
    assert fewer.kv_bytes == pytest.approx(2 * 128 * 4 * 14 * (fewer.visual_tokens + text))
    document = cost.document()
    assert (document["cells"], document["answers"]) == (12, 120)
    assert document["flops"] == pytest.approx(sum(10 * cell.flops for cell in setup.cells))
    assert 0 < document["token_layers_shared"] < document["token_layers"]
    assert json.loads(cost.to_json()) == document


def test_its_table_says_what_is_not_known() -> None:
    cost = run(reducers={"vas": {}}, limit=2, budget={"flops": 0.5})
    out = StringIO()
    cost.print(Console(file=out, width=100))
    printed = " ".join(out.getvalue().split())
    assert "forced, not solved" in printed
    assert "2 cells, 4 answers" in printed
    assert "shared prefixes save" in printed


def test_no_weight_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    reducers = {"fastv": {}}
    bare = run(model=str(folder), reducers=reducers, limit=4).setups[0]
    whole = run(reducers=reducers, limit=4).setups[0]
    assert bare.cells == whole.cells


def test_a_layer_that_does_not_exist_is_an_error_of_the_grid() -> None:
    with pytest.raises(ConfigError, match="layer 99 does not exist"):
        run(reducers={"fastv": {"layer": 99}}, limit=2)


# Those whose class is transformers' own; the composed ones have a checkpoint of their own below.
CASES = {c.name: c for c in families() if "video" in c.prompts and c.save is None}


def assert_same(adapter: ModelAdapter, model: Any, bare: Any, inputs: dict[str, Any]) -> None:
    real, found = adapter.layout(model, inputs), adapter.layout(bare, inputs)
    for part in ("role", "item", "frame", "row", "column"):
        assert getattr(real, part).equal(getattr(found, part))
    assert adapter.decoder_shape(model) == adapter.decoder_shape(bare)
    assert adapter.first_layer(model) == adapter.first_layer(bare)
    assert {parameter.device.type for parameter in bare.parameters()} == {"meta"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES))
def test_every_family_is_laid_out_the_same_without_weights(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.model()
    model.config.save_pretrained(tmp_path)
    bare = load_pretrained(type(model).__name__, tmp_path, dtype="float32", device="meta")
    assert_same(case.adapter, model, bare, case.prompts["video"]())


def test_a_composed_model_is_laid_out_the_same_without_weights(tmp_path: Path) -> None:
    folder = publish(tmp_path / "vila")
    whole, bare = (Vila().load(folder, dtype="float32", device=each) for each in ("cpu", "meta"))
    frames = torch.zeros(8, 20, 30, 3, dtype=torch.uint8)
    inputs = bare.processor.video_inputs(frames, "what is it ?")
    assert_same(Vila(), whole.model, bare.model, inputs)


def test_a_configuration_that_describes_no_model_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava", "text_config": 3}')
    name = "LlavaForConditionalGeneration"
    with pytest.raises(AdapterError, match=f"it describes no {name}"):
        load_pretrained(name, tmp_path, dtype="float32", device="meta")
