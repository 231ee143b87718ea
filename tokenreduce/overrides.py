"""Reading YAML, and changing single values of it by dotted paths: ``reducers.vas.ratio=0.5``."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tokenreduce.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is written twice is an error, not the last one's victory."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        written = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
        if written in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key '{key.value}' is written twice", key.start_mark
            )
        if written is not None and key.value != "<<":
            seen.add(written)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping written in a YAML file; an empty file is an empty mapping.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no YAML (with line and column), or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise ConfigError(f"cannot read the configuration file '{path}': {reason}.") from error
    data = _parse(text, f"'{path}'")
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"'{path}' holds {data!r}: a configuration is a mapping of settings.")
    return data


def apply_overrides(data: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return ``data`` with every ``path=value`` applied; ``data`` itself is left as it is.

    Parameters
    ----------
    data
        Settings as they were read.
    overrides
        Dotted path, ``=``, and a value in YAML. A number in a path is an index into a list.
        Giving a new ``use`` drops its sibling keys, which belonged to the old one; such overrides
        go first, so that the order on the command line does not matter.

    Raises
    ------
    ConfigError
        If one of them has no ``=``, no valid YAML, or leads through a value that has no parts.
    """
    changed = copy.deepcopy(data)
    parsed = [_split(override) for override in overrides]
    for path, value in sorted(parsed, key=lambda entry: entry[0][-1] != "use"):
        changed = _put(changed, path, value, ".".join(path))
    return changed


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, RUF100 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"{where} is no valid YAML{place}: {error.problem}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} is no valid YAML: {error}.") from error


def _split(override: str) -> tuple[list[str], Any]:
    path, equals, value = override.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"the override '{override}' is not of the form path=value, "
            "as in reducers.vas.ratio=0.5."
        )
    return parts, _parse(value, f"the value of the override '{override}'")


def _put(node: Any, path: Sequence[str], value: Any, whole: str, label: str = "") -> Any:
    if not path:
        return value
    if isinstance(node, list):
        index = path[0]
        if not index.isdecimal() or int(index) >= len(node):
            raise ConfigError(
                f"the override '{whole}' leads into a list of {len(node)}: "
                f"'{index}' must be an index from 0 to {len(node) - 1}."
            )
        node[int(index)] = _put(node[int(index)], path[1:], value, whole)
        return node
    if node is not None and not isinstance(node, dict):
        # `benchmark: embedded` is short for `benchmark: {use: embedded}`.
        if not isinstance(node, str):
            raise ConfigError(f"the override '{whole}' leads into {node!r}, which has no parts.")
        node = {"use": node}
    node = node or {}
    key, rest = _longest_key(node, path)
    if key == "use" and not rest:
        return node if node.get("use", label) == value else {"use": value}
    node[key] = _put(node.get(key), rest, value, whole, key)
    return node


def _longest_key(node: dict[str, Any], path: Sequence[str]) -> tuple[str, Sequence[str]]:
    # A label may hold dots itself, as in `vas-0.3`.
    for length in range(len(path), 1, -1):
        key = ".".join(path[:length])
        if key in node:
            return key, path[length:]
    return path[0], path[1:]
