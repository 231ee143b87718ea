"""The model's arguments in lmms-eval are those of a configuration, or one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenreduce.errors import ConfigError
from tokenreduce.lmms.arguments import parse_arguments
from tokenreduce_plugins.evs import Evs
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.vas import Vas

CONFIGURATION = """
model: embedded
benchmark: {use: embedded}
frames: 8
seeds: [4]
reducers:
  vas: {ratio: 0.3}
  both: [{use: evs}, {use: vas, ratio: 0.4}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.yaml"
    path.write_text(CONFIGURATION)
    return path


def test_nothing_given_is_the_embedded_model_without_reduction() -> None:
    found = parse_arguments({})
    assert found.settings.model == "embedded"
    assert found.settings.max_new_tokens == 128
    assert found.reducers == (KeepAll(),)
    assert (found.seed, found.batch_size, found.records) == (0, 1, None)
    assert "qwen2_vl" in found.adapters


def test_all_of_them(tmp_path: Path) -> None:
    found = parse_arguments(
        {
            "pretrained": str(tmp_path),
            "reducer": "vas",
            "reducer.ratio": 0.3,
            "reducer.interval": 2.0,
            "reducer.end_layer": "12",  # as text it is YAML
            "frames": 32.0,
            "seed": 7.0,
            "positions": "renumber",
            "dtype": "bfloat16",
            "device": "cpu",
            "max_new_tokens": 5,
            "model_option.lora_alpha": 4,
            "model_option.merge": "[1, 2]",
            "records": "here.jsonl",
            "batch_size": "8",
            "max_batch_size": 64,
        }
    )
    settings = found.settings
    assert found.reducers == (Vas(ratio=0.3, interval=2, end_layer=12),)
    assert (settings.model, settings.frames, found.seed) == (str(tmp_path), 32, 7)
    assert (settings.positions, settings.dtype, settings.device) == ("renumber", "bfloat16", "cpu")
    assert settings.max_new_tokens == 5
    assert settings.model_options == {"lora_alpha": 4, "merge": [1, 2]}
    assert (found.batch_size, found.records) == (8, Path("here.jsonl"))


def test_rows_of_a_configuration(file: Path) -> None:
    found = parse_arguments({"config": str(file), "row": "both"})
    assert found.reducers == (Evs(), Vas(ratio=0.4))
    assert (found.settings.frames, found.seed) == (8, 4)
    found = parse_arguments({"config": str(file), "row": "vas", "frames": 16, "seed": 1})
    assert found.reducers == (Vas(ratio=0.3),)
    assert (found.settings.frames, found.seed) == (16, 1)


@pytest.mark.parametrize(
    ("rows", "reducers"),
    [
        ("[{use: evs}, {use: fastv, layer: 2}]", (Evs(), FastV(layer=2))),
        ("{fastv: {layer: 2}}", (FastV(layer=2),)),
        ("{keep_all: {}, mine: {use: fastv, layer: 2}}", (FastV(layer=2),)),
        ("{keep_all: {}}", (KeepAll(),)),
        ("{mine: [{use: fastv, layer: 2}]}", (FastV(layer=2),)),
    ],
)
def test_one_row_needs_no_name(tmp_path: Path, rows: str, reducers: tuple[Any, ...]) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"reducers: {rows}\n")
    assert parse_arguments({"config": str(path)}).reducers == reducers


def test_a_file_may_hold_settings_only(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("frames: 4\nmodel_options: {a: 1}\n")
    found = parse_arguments(
        {"config": str(path), "reducer": "fastv", "reducer.layer": 3, "model_option.b": 2}
    )
    assert found.reducers == (FastV(layer=3),)
    assert found.settings.frames == 4
    assert found.settings.model_options == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pretrain": "x"}, "no argument 'pretrain': did you mean 'pretrained'"),
        ({"reducer": "vass"}, "no reducer is called 'vass': did you mean 'vas'"),
        ({"reducer": "vas", "reducer.ratioo": 1}, r"reducers.vas.ratioo: .* did you mean 'ratio'"),
        ({"reducer.ratio": 0.3}, "say which with reducer=NAME"),
        ({"pretrained": "/no/such"}, "'/no/such' is neither 'embedded' nor a folder"),
        ({"frames": 0, "dtype": "int8"}, "(?s)frames: 0 .*dtype: 'int8'"),
        ({"seed": -1}, "seeds.0: -1 is not valid"),
        ({"batch_size": "auto"}, "batch_size='auto' is no number"),
        ({"batch_size": 0}, "batch_size=0 is no number"),
        ({"config": "/no/such.yaml"}, "cannot read the configuration file"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_arguments(given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "has the rows vas, both: .* row=LABEL"),
        ({"row": "bothh"}, "no row 'bothh': did you mean 'both'"),
        ({"reducer": "vas"}, "reducer=vas stands beside the reducers of"),
    ],
)
def test_wrong_choices_of_a_row(file: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_arguments({"config": str(file), **given})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [0, 1]", r"seeds=\[0, 1\]: a run in lmms-eval has one seed"),
        ("reducers: vas", "reducers: 'vas' is neither a list nor a mapping"),
        ("reducers: {vas: {ratio: {sweep: [0.1, 0.2]}}}", "a sweep belongs to an ablation"),
        ("framess: 3", "framess: .* did you mean 'frames'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        parse_arguments({"config": str(path)})
