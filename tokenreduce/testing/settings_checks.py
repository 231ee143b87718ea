"""Checks of settings, for reducers and benchmarks alike: both are frozen pydantic models."""

from __future__ import annotations

import json
import math
from typing import Any

from pydantic import BaseModel, ValidationError

from tokenreduce.errors import ConfigError
from tokenreduce.reducer import Reducer
from tokenreduce.testing.check import Check, require

UNKNOWN = "no_such_setting"


def schema_round_trip(subject: BaseModel) -> None:
    """Settings survive JSON, and every one says what it means."""
    cls = type(subject)
    written = json.loads(subject.model_dump_json())
    require(
        cls.model_validate(written) == subject,
        f"{cls.__name__}(**settings) differs from what was written: {written}",
    )
    properties = cls.model_json_schema().get("properties", {})
    missing = [name for name in cls.model_fields if name not in properties]
    require(not missing, f"the JSON schema lacks {missing}")
    silent = [name for name, field in cls.model_fields.items() if not field.description]
    require(not silent, f"give the settings {silent} a description: Field(..., description=...)")


def frozen(subject: BaseModel) -> None:
    """An instance cannot be changed, and equal ones hash equally."""
    cls = type(subject)
    for name in cls.model_fields:
        try:
            setattr(subject, name, getattr(subject, name))
        except ValidationError:
            continue
        require(False, f"'{name}' can be assigned: leave model_config as it is, frozen")
    require(hash(subject) == hash(subject.model_copy()), "two equal instances hash differently")


def unknown_settings_are_refused(subject: BaseModel) -> None:
    """A misspelt setting is an error, not silence."""
    cls = type(subject)
    refused = _refused(cls, {**subject.model_dump(), UNKNOWN: 1})
    require(refused, f"{cls.__name__}({UNKNOWN}=1) is accepted: a misspelt setting would be lost")


def nonsense_is_refused(subject: BaseModel) -> None:
    """Settings of the wrong type, and numbers that are none, are refused with a typed error."""
    cls = type(subject)
    for name, field in cls.model_fields.items():
        values: list[Any] = [object()]
        if field.annotation in (int, float) or name in getattr(cls, "budget_fields", {}):
            values += [math.nan, math.inf, -math.inf, "nonsense"]
            if field.is_required() or field.default is not None:  # where null has no meaning
                values.append(None)
        for value in values:
            refused = _refused(cls, {**subject.model_dump(), name: value})
            require(refused, f"{name}={value!r} is accepted: give the setting a type and bounds")


def layers_fit_every_depth(subject: Reducer) -> None:
    """Layers lie in the model, ascending, whatever its depth; else a ConfigError says so."""
    fits = 0
    for depth in (1, 2, 3, 6, 14, 28, 32, 60):
        try:
            layers = subject.acts_after(depth)
        except ConfigError:
            continue
        except Exception as error:
            require(False, f"acts_after({depth}) raised {error!r}: raise a ConfigError")
        good = all(type(layer) is int and -1 <= layer < depth for layer in layers)
        require(good, f"acts_after({depth}) = {layers} leaves the layers -1 to {depth - 1}")
        require(
            list(layers) == sorted(set(layers)),
            f"acts_after({depth}) = {layers} is not in ascending order, each layer once",
        )
        fits += 1
    require(fits, "acts_after() fits no depth of 1 to 60 layers")


def budget_fields_are_settings(subject: Reducer) -> None:
    """Every budget field is a setting, and its bounds are accepted."""
    cls = type(subject)
    for name, (low, high) in cls.budget_fields.items():
        require(name in cls.model_fields, f"the budget field '{name}' is no setting")
        require(low < high, f"the bounds {low} and {high} of '{name}' leave nothing to turn")
        for bound in (low, high):
            refused = _refused(cls, {**subject.model_dump(), name: bound})
            require(not refused, f"{name}={bound} is refused, but is a bound of its budget")


def _refused(cls: type[BaseModel], settings: dict[str, Any]) -> bool:
    try:
        cls(**settings)
    except (ValidationError, ConfigError):
        return True
    return False


def _has_budget(subject: Reducer) -> bool:
    return bool(subject.budget_fields)


SETTINGS_CHECKS = (
    Check(schema_round_trip),
    Check(frozen),
    Check(unknown_settings_are_refused),
    Check(nonsense_is_refused),
)
"""For whatever is configured in YAML."""

REDUCER_SETTINGS_CHECKS = (
    *SETTINGS_CHECKS,
    Check(layers_fit_every_depth),
    Check(budget_fields_are_settings, _has_budget),
)
