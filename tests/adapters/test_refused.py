"""Families that no adapter can claim: the error says why, for a model and for a folder."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from torch import nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import tokenreduce
from tokenreduce.errors import AdapterError, UnsupportedError
from tokenreduce.inference import load_model
from tokenreduce.plugins import load_plugins

REASONS = {
    "qwen3_5": "recurrent layers",
    "qwen3_5_moe": "recurrent layers",
    "gemma3n": "share keys and values",
    "gemma4": "share keys and values",
}


def of_type(model_type: str) -> nn.Module:
    module: Any = nn.Linear(1, 1)
    module.config = SimpleNamespace(model_type=model_type)
    return cast("nn.Module", module)


@pytest.mark.parametrize(("model_type", "reason"), REASONS.items())
def test_the_reason_is_in_the_error(tmp_path: Path, model_type: str, reason: str) -> None:
    assert model_type in CONFIG_MAPPING_NAMES  # transformers' own name
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    said = f"'{model_type}' .*{reason}.* would not be exact"
    with pytest.raises(UnsupportedError, match=said):
        tokenreduce.load(str(tmp_path))
    with (
        pytest.raises(UnsupportedError, match=said),
        tokenreduce.reduce(of_type(model_type), "fastv"),
    ):
        pass


def test_others_without_an_adapter_are_only_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "qwen9"}')
    with pytest.raises(AdapterError, match="no adapter claims the model_type 'qwen9'"):
        tokenreduce.load(str(tmp_path))
    with (
        pytest.raises(AdapterError, match="no adapter claims Linear"),
        tokenreduce.reduce(of_type("qwen9"), "fastv"),
    ):
        pass


def test_no_builtin_claims_what_is_refused() -> None:
    for adapter in load_plugins(entry_points=[]).registry.adapters.values():
        assert not set(REASONS) & set(adapter.model_types)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "llava", "architectures": 5}', "cannot be read as a 'llava'"),
        ('{"model_type": "llava_llama", "llm_cfg": 3}', "no adapter claims|cannot be read as a"),
        ('{"model_type": ["llava"]}', "no adapter claims the model_type"),
    ],
)
def test_values_of_a_wrong_type_in_a_configuration_are_one_error(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    adapters = load_plugins(entry_points=[]).registry.adapters
    with pytest.raises(AdapterError, match=message):
        load_model(str(tmp_path), adapters, dtype="float32", device="cpu")
