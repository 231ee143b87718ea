"""The JSON schema of a configuration file, so that editors complete and check it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tokenreduce.config import Classes, CommonSettings

_REF = "#/$defs/"


def json_schema(
    classes: Classes, settings: type[BaseModel] = CommonSettings, command: str = "compare"
) -> dict[str, Any]:
    """Return the JSON schema of a configuration file.

    Parameters
    ----------
    classes
        Reducers and benchmarks of the loaded plugins; their fields become the settings.
    settings
        What there is besides benchmark and reducers.
    command
        What the file is for.
    """
    models: list[type[BaseModel]] = [settings]
    models += [*classes.reducers.values(), *classes.benchmarks.values()]
    references, schema = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REF + "{model}"
    )
    definitions = schema["$defs"]

    def take(model: type[BaseModel]) -> dict[str, Any]:
        definition: dict[str, Any] = definitions[
            references[model, "validation"]["$ref"].removeprefix(_REF)
        ]
        return definition

    top = take(settings)
    for name, cls in classes.reducers.items():
        definitions[f"reducer.{name}"] = _named(name, take(cls))
        definitions[f"label.{name}"] = _labelled(name, take(cls))
    for name, cls in classes.benchmarks.items():
        definitions[f"benchmark.{name}"] = _named(name, take(cls))
    definitions["row"] = _row(classes.reducers)
    for model in models:
        definitions.pop(references[model, "validation"]["$ref"].removeprefix(_REF), None)
    parts = {"benchmark": _benchmark(classes.benchmarks), "reducers": _reducers(classes.reducers)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **top,
        "title": f"Configuration of `tokenreduce {command}`",
        "properties": {**top["properties"], **parts},
        "required": ["reducers"],
        "$defs": definitions,
    }


def _benchmark(classes: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    short = [name for name, cls in classes.items() if getattr(cls, "shorthand", None)]
    texts: list[dict[str, Any]] = [{"enum": list(classes)}]
    if short:
        texts.append({"type": "string", "pattern": f"^({'|'.join(short)}):."})
    return {
        "description": "the questions: a name, a name and its first setting as in jsonl:FILE, or "
        "a name with settings",
        "anyOf": [*texts, *(_ref(f"benchmark.{name}") for name in classes)],
    }


def _reducers(names: Iterable[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "rows of the table: a label, and the reducer it stands for or a list of "
        "reducers that are composed in order",
        "minProperties": 1,
        # A label that is a reducer's name needs no `use`; it may still be a label for another.
        "properties": {
            name: {"anyOf": [{"type": "null"}, _ref(f"label.{name}"), _ref("row")]}
            for name in names
        },
        "additionalProperties": _ref("row"),
    }


def _row(names: Iterable[str]) -> dict[str, Any]:
    stage = {"anyOf": [_ref(f"reducer.{name}") for name in names]}
    return {"anyOf": [stage, {"type": "array", "minItems": 1, "items": stage}]}


def _named(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    labelled = _labelled(name, schema)
    return {**labelled, "required": ["use", *schema.get("required", [])]}


def _labelled(name: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    use = {"const": name, "description": "name of the class that these settings are for"}
    return {**schema, "properties": {"use": use, **schema.get("properties", {})}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF + name}
