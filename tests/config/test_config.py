"""Configurations: what they mean, and everything that is wrong with one, at once."""

from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tokenreduce.config import Classes, CompareConfig, parse_config, parse_reducer, plugin_settings
from tokenreduce.errors import ConfigError


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KeepAll(Strict):
    name: ClassVar[str] = "keep_all"


class Drop(Strict):
    name: ClassVar[str] = "drop"
    ratio: float = Field(0.5, ge=0, lt=1)
    layer: int | float = 1
    queries: Literal["last", "text", "all"] = "last"


class Pool(Strict):
    name: ClassVar[str] = "pool"
    layers: tuple[int, ...] = (1,)
    stride: int


class Quiz(Strict):
    name: ClassVar[str] = "embedded"
    split: Literal["default", "full"] = "default"


CLASSES = Classes({"keep_all": KeepAll, "drop": Drop, "pool": Pool}, {"embedded": Quiz})


def parse(**data: Any) -> CompareConfig:
    return parse_config({"reducers": {"drop": None}, **data}, CLASSES, "'my.yaml'")


def errors(**data: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(**data)
    head, *lines = str(caught.value).splitlines()
    count = f"{len(lines)} error{'s' if len(lines) > 1 else ''}"
    assert head == f"{count} in 'my.yaml':"
    return [line.strip() for line in lines]


def test_everything_but_reducers_has_a_default() -> None:
    config = parse()
    assert config.settings.model == "embedded"
    assert config.settings.seeds == (0,)
    assert config.benchmark == Quiz()
    assert dict(config.reducers) == {"keep_all": (KeepAll(),), "drop": (Drop(),)}


def test_use_defaults_to_the_label_and_lists_compose_in_order() -> None:
    rows = {
        "drop": {"ratio": 0.3},
        "half": {"use": "drop"},
        "both": [{"use": "pool", "stride": 2}, {"use": "drop", "ratio": 0.1}],
    }
    reducers = parse(reducers=rows).reducers
    assert list(reducers) == ["keep_all", "drop", "half", "both"]
    assert reducers["drop"] == (Drop(ratio=0.3),)
    assert reducers["half"] == (Drop(),)
    assert reducers["both"] == (Pool(stride=2), Drop(ratio=0.1))


@pytest.mark.parametrize("label", ["keep_all", "plain"])
def test_a_written_baseline_is_not_added_again(label: str) -> None:
    reducers = parse(reducers={"drop": {}, label: {"use": "keep_all"}}).reducers
    assert list(reducers) == ["drop", label]


@pytest.mark.parametrize("written", ["embedded", {"use": "embedded"}, {"split": "default"}, None])
def test_benchmark_is_a_name_or_a_name_with_settings(written: object) -> None:
    assert parse(benchmark=written).benchmark == Quiz()


def test_written_out_it_means_the_same() -> None:
    config = parse(
        reducers={"a": {"use": "pool", "layers": [2, 3], "stride": 2}, "b": [{"use": "drop"}] * 2},
        frames=8,
        benchmark={"split": "full"},
    )
    again = parse_config(config.to_dict(), CLASSES, "again")
    assert again == config
    assert config.to_dict()["reducers"]["a"] == {"use": "pool", "layers": [2, 3], "stride": 2}


def test_all_errors_come_at_once_with_path_value_and_nearest_name() -> None:
    found = errors(
        modle="embedded",
        frames=0,
        dtype="fp16",
        device="gpu",
        seeds=[],
        positions="shift",
        plugins={"blok": ["x"]},
        benchmark={"split": "ful"},
        reducers={
            "drop": {"ratoi": 0.3, "ratio": 1.5, "queries": "lst", "layer": "x"},
            "poool": {},
            "p": {"use": "pool", "layers": [1, "x"]},
            "both": [{"use": "drop", "rati": 1}, {"ratio": 1}, "drop"],
            "none": [],
            "text": "drop",
            3: {"use": "drop"},
        },
    )
    assert found == [
        "frames: 0 is not valid: should be greater than or equal to 1.",
        "dtype: 'fp16' is not valid: did you mean 'float16'? Known: float32, bfloat16, float16.",
        "device: 'gpu' is not valid: use auto, cpu, mps, cuda, or one of several as in cuda:1.",
        "seeds: [] is not valid: it needs at least 1.",
        "positions: 'shift' is not valid: Known: keep, renumber, mean.",
        "plugins.blok: there is no such setting (['x']): did you mean 'block'? "
        "Known: block, strict.",
        "modle: there is no such setting ('embedded'): did you mean 'model'? Known: model, "
        "model_options, frames, max_new_tokens, dtype, device, seeds, limit, positions, plugins, "
        "benchmark, reducers.",
        "benchmark.split: 'ful' is not valid: did you mean 'full'? Known: default, full.",
        "reducers.3: the label 3 is no text: quote it.",
        "reducers.drop.ratio: 1.5 is not valid: should be less than 1.",
        "reducers.drop.layer: 'x' is not valid: should be a valid integer; or should be a valid "
        "number.",
        "reducers.drop.queries: 'lst' is not valid: did you mean 'last'? Known: last, text, all.",
        "reducers.drop.ratoi: there is no such setting (0.3): did you mean 'ratio'? "
        "Known: ratio, layer, queries.",
        "reducers.poool: no reducer is called 'poool': did you mean 'pool'? "
        "Known: keep_all, drop, pool.",
        "reducers.p.layers.1: 'x' is not valid: should be a valid integer.",
        "reducers.p.stride: is missing.",
        "reducers.both.0.rati: there is no such setting (1): did you mean 'ratio'? "
        "Known: ratio, layer, queries.",
        "reducers.both.1: {'ratio': 1} names no reducer: write {use: NAME, ...}.",
        "reducers.both.2: 'drop' is no mapping of settings: write {use: NAME, ...}.",
        "reducers.none: an empty list composes nothing: name at least one reducer.",
        "reducers.text: 'drop' is no mapping of settings: write {use: NAME, ...}.",
    ]


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"reducers": {"drop": {"ratio": {"sweep": [0.1, 0.2]}}}}, "reducers.drop.ratio"),
        ({"reducers": {"d": {"use": {"sweep": ["drop", "pool"]}}}}, "reducers.d.use"),
        ({"frames": {"sweep": [8, 16]}}, "frames"),
        ({"model": {"sweep": ["a", "b"]}}, "model"),
    ],
)
def test_sweeps_are_refused_and_nothing_else_is_said(data: dict[str, Any], path: str) -> None:
    assert errors(**data) == [
        f"{path}: a sweep belongs to an ablation; compare takes one value here."
    ]


@pytest.mark.parametrize("written", [None, {}, [], "drop", 3])
def test_no_reducers_is_an_error(written: object) -> None:
    (line,) = errors(reducers=written)
    assert line.startswith(f"reducers: {written!r} is no mapping from labels to reducers")


def test_model_is_embedded_or_a_folder() -> None:
    assert parse(model=".").settings.model == "."
    (line,) = errors(model="some/checkpoint")
    assert line.startswith("model: 'some/checkpoint' is neither 'embedded' nor a folder")


def test_the_baselines_label_is_the_baselines() -> None:
    (line,) = errors(reducers={"keep_all": {"use": "drop"}})
    assert line == "reducers.keep_all: this label is the baseline's: give the row another."


def test_one_reducer_from_a_name_and_settings() -> None:
    assert parse_reducer("drop", {"ratio": 0.1}, CLASSES) == Drop(ratio=0.1)
    with pytest.raises(ConfigError) as caught:
        parse_reducer("drop", {"ratio": 3, "x": 1}, CLASSES)
    assert str(caught.value).splitlines() == [
        "2 errors in the settings of the reducer 'drop':",
        "  ratio: 3 is not valid: should be less than 1.",
        "  x: there is no such setting (1): Known: ratio, layer, queries.",
    ]


def test_plugin_settings_are_read_before_classes_are_known() -> None:
    assert plugin_settings({"plugins": {"block": ["a"]}}).block == ("a",)
    assert plugin_settings({"plugins": {"block": 3}}).block == ()
    assert plugin_settings({"plugins": None}).block == ()
    assert plugin_settings({}).strict is False


class Listed(Strict):
    name: ClassVar[str] = "listed"
    shorthand: ClassVar[str] = "file"
    file: str
    match: str = "exact"


@pytest.mark.parametrize(
    ("written", "match"),
    [
        ("listed:a:b.jsonl", "exact"),
        # What `--set benchmark=listed:FILE --set benchmark.match=number` makes of it.
        ({"use": "listed:a:b.jsonl", "match": "number"}, "number"),
        ({"use": "listed", "file": "a:b.jsonl"}, "exact"),
    ],
)
def test_a_benchmark_may_be_written_short(written, match):
    classes = Classes(CLASSES.reducers, {**CLASSES.benchmarks, "listed": Listed})
    config = parse_config({"benchmark": written, "reducers": {"drop": {}}}, classes, "x")
    assert config.benchmark == Listed(file="a:b.jsonl", match=match)
