"""The arguments of the model in lmms-eval, from ``--model_args`` to checked values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tokenreduce.config import BASELINE, Classes, CommonSettings, parse_config, plugin_settings
from tokenreduce.errors import ConfigError
from tokenreduce.names import suggestion
from tokenreduce.overrides import apply_overrides, read_yaml

if TYPE_CHECKING:
    from tokenreduce.adapter import ModelAdapter
    from tokenreduce.reducer import Reducer

#: Arguments that are a setting of a configuration under another name.
RENAMED = {"pretrained": "model"}
SETTINGS = ("frames", "positions", "dtype", "device", "max_new_tokens")
OWN = ("config", "row", "reducer", "seed", "records", "batch_size", "max_batch_size")
PREFIXES = {"reducer.": "reducer.SETTING", "model_option.": "model_option.NAME"}

DEFAULT_TOKENS = 128
"""Longest answer, in tokens, to a task that sets no limit."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a run in lmms-eval was asked for.

    Attributes
    ----------
    settings
        Model, frames, number format, device, positions and the longest answer.
    reducers
        Composed in order.
    seed
        Of random choices.
    batch_size
        Most questions in one ``generate``.
    records
        File for the records of the questions; None: beside lmms-eval's own files.
    adapters
        Adapter classes by name.
    """

    settings: CommonSettings
    reducers: tuple[Reducer, ...]
    seed: int
    batch_size: int
    records: Path | None
    adapters: Mapping[str, type[ModelAdapter]]


def parse_arguments(given: Mapping[str, Any]) -> Arguments:
    """Check all arguments.

    Parameters
    ----------
    given
        By name, with the values that lmms-eval's parser made of them.

    Raises
    ------
    ConfigError
        With all that is wrong with the settings; an argument that does not exist comes first.
    """
    from tokenreduce.plugins import load_plugins

    _check_names(given)
    data = read_yaml(Path(str(given["config"]))) if "config" in given else {}
    label, row = _row(given, data)
    seeds = [given["seed"]] if "seed" in given else data.get("seeds", [0])
    if not isinstance(seeds, list) or len(seeds) != 1:
        raise ConfigError(f"seeds={seeds!r}: a run in lmms-eval has one seed, give seed=NUMBER.")
    registry = load_plugins(block=plugin_settings(data).block).registry
    checked = parse_config(
        {
            "max_new_tokens": DEFAULT_TOKENS,
            **{key: value for key, value in data.items() if key != "benchmark"},
            **dict(_settings(given)),
            "model_options": {**data.get("model_options", {}), **_below("model_option.", given)},
            "seeds": seeds,
            "reducers": {label: row},
        },
        Classes(registry.reducers, registry.benchmarks),
        "the model's arguments",
    )
    return Arguments(
        checked.settings,
        cast("tuple[Reducer, ...]", tuple(checked.reducers[label])),
        checked.settings.seeds[0],
        _batch_size(given.get("batch_size", 1)),
        Path(str(given["records"])) if "records" in given else None,
        registry.adapters,
    )


def _check_names(given: Mapping[str, Any]) -> None:
    known = (*RENAMED, *SETTINGS, *OWN)
    for name in given:
        if name not in known and not any(name.startswith(prefix) for prefix in PREFIXES):
            said = suggestion(name, [*known, *PREFIXES.values()])
            raise ConfigError(f"the model 'tokenreduce' has no argument '{name}': {said}")


def _settings(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in given.items():
        if name in RENAMED or name in SETTINGS:
            yield RENAMED.get(name, name), value


def _below(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is given under a prefix, values read as YAML where they are still text."""
    named = {name.removeprefix(prefix): v for name, v in given.items() if name.startswith(prefix)}
    text = [f"{name}={value}" for name, value in named.items() if isinstance(value, str)]
    plain = {name: value for name, value in named.items() if not isinstance(value, str)}
    return {**plain, **apply_overrides({}, text)}


def _row(given: Mapping[str, Any], data: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the label and the reducers of the one row that is run."""
    settings, rows = _below("reducer.", given), data.get("reducers")
    if "reducer" in given:
        if rows is not None:
            raise ConfigError(
                f"reducer={given['reducer']} stands beside the reducers of "
                f"'{given['config']}': give one of them."
            )
        return str(given["reducer"]), {**settings, "use": given["reducer"]}
    if settings:
        raise ConfigError(
            f"reducer.{next(iter(settings))} is a setting of a reducer: say which with "
            "reducer=NAME."
        )
    if rows is None or isinstance(rows, list):
        return ("list", rows) if rows else (BASELINE, {})
    return _chosen(given, rows)


def _chosen(given: Mapping[str, Any], rows: Any) -> tuple[str, Any]:
    if not isinstance(rows, dict):
        raise ConfigError(
            f"'{given['config']}': reducers: {rows!r} is neither a list nor a mapping of labels."
        )
    labels = [str(label) for label in rows]
    others = [label for label in labels if label != BASELINE] or labels
    label = given.get("row", others[0] if len(others) == 1 else None)
    if label is None:
        raise ConfigError(
            f"'{given['config']}' has the rows {', '.join(labels)}: a run in lmms-eval has one, "
            "say which with row=LABEL."
        )
    if label not in rows:
        raise ConfigError(f"'{given['config']}' has no row '{label}': {suggestion(label, labels)}")
    return str(label), rows[label]


def _batch_size(value: object) -> int:
    try:
        size = int(str(value))
    except ValueError:
        size = 0
    if size < 1:
        raise ConfigError(
            f"batch_size={value!r} is no number of questions: give 1 or more; there is no 'auto'."
        )
    return size
