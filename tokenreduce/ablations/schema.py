"""The JSON schema of a grid file: that of a configuration, in which values may be swept."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from tokenreduce.ablations.options import MEASURES, BudgetSettings, GridSettings
from tokenreduce.ablations.setups import OF_SETUP
from tokenreduce.config import Classes
from tokenreduce.config_schema import json_schema

_SWEEP = {"$ref": "#/$defs/sweep"}
_NUMBERS = {"type": "number"}
_PARTIAL = {"type": "array", "items": {"type": "object", "minProperties": 1}}
_CONDITIONS = {
    "zip": {
        "type": "array",
        "items": {"type": "array", "items": {"type": "string"}},
        "description": "sweeps that go together instead of making a product",
    },
    "only": {**_PARTIAL, "description": "partial settings: what matches none is left out"},
    "except": {**_PARTIAL, "description": "partial settings: what matches one is left out"},
}


def grid_schema(classes: Classes) -> dict[str, Any]:
    """Return the JSON schema of a grid file.

    Parameters
    ----------
    classes
        Reducers and benchmarks of the loaded plugins; their fields become the settings.
    """
    schema = json_schema(classes, GridSettings, "ablate")
    definitions = schema["$defs"]
    for name, definition in definitions.items():
        if name.startswith(("reducer.", "label.", "benchmark.")):
            properties = _swept(definition["properties"], besides=("use",))
            conditions = {} if name.startswith("benchmark.") else _CONDITIONS
            definitions[name] = {**definition, "properties": {**properties, **conditions}}
    composed = definitions["row"]["anyOf"][1]
    definitions["row"]["anyOf"] += [
        {
            "type": "object",
            "properties": {"use": composed, **_CONDITIONS},
            "required": ["use"],
            "additionalProperties": False,
        },
        _SWEEP,
    ]
    definitions["sweep"] = _sweep()
    properties = schema["properties"]
    common = {name: properties[name] for name in ("model", "benchmark", *OF_SETUP)}
    return {
        **schema,
        "properties": {**properties, **_swept(common), "budget": _budget(), **_CONDITIONS},
    }


def _swept(properties: Mapping[str, Any], besides: Collection[str] = ()) -> dict[str, Any]:
    return {
        name: entry if name in besides else {"anyOf": [entry, _SWEEP]}
        for name, entry in properties.items()
    }


def _sweep() -> dict[str, Any]:
    ends = {"from": _NUMBERS, "to": _NUMBERS}

    def range_with(size: str, number: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {**ends, size: number},
            "required": ["from", "to", size],
            "additionalProperties": False,
        }

    count = {"type": "integer", "minimum": 2}
    values = [
        {"type": "array", "minItems": 1},
        range_with("step", _NUMBERS),
        range_with("count", count),
    ]
    return {
        "type": "object",
        "description": "values to take in turn, or a range of numbers, both ends included",
        "properties": {"sweep": {"anyOf": values}},
        "required": ["sweep"],
        "additionalProperties": False,
    }


def _budget() -> dict[str, Any]:
    schema = BudgetSettings.model_json_schema()
    properties = schema["properties"]
    measures: dict[str, Any] = {name: properties[name] for name in MEASURES}
    return {
        "type": "object",
        "description": "the share that every reducer is to meet, by turning its settings",
        "properties": {**properties, **_swept(measures)},
        "additionalProperties": False,
    }
