"""Which reducers, model adapters and benchmarks there are, by name, and whose each one is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from tokenreduce.adapter import ModelAdapter
from tokenreduce.benchmark import Benchmark
from tokenreduce.config import besides_use
from tokenreduce.errors import ConfigError, PluginError
from tokenreduce.names import suggestion
from tokenreduce.reducer import Reducer

Kind = Literal["reducers", "adapters", "benchmarks"]

BASES: Mapping[Kind, type[Any]] = MappingProxyType(
    {"reducers": Reducer, "adapters": ModelAdapter, "benchmarks": Benchmark}
)
"""What the classes of each kind must inherit from."""

# A name is a key in YAML, a part of dotted paths, and joined by "+" in composed rows.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Owner:
    """The plugin that registered a class.

    Attributes
    ----------
    plugin
        Name of the entry point, or of the built-in.
    distribution, version
        Installed distribution the plugin came with; its version may be empty.
    """

    plugin: str
    distribution: str
    version: str = ""

    def __str__(self) -> str:
        where = f"{self.distribution} {self.version}".strip()
        return f"plugin '{self.plugin}' ({where})"


class Registry:
    """Classes by kind and name. Filled while plugins load, only read afterwards."""

    def __init__(self) -> None:
        self._classes: dict[Kind, dict[str, type[Any]]] = {kind: {} for kind in BASES}
        self._owners: dict[tuple[Kind, str], Owner] = {}

    def add(self, kind: Kind, found: type[Any], owner: Owner) -> None:
        """Register a class that :func:`check_class` has passed.

        Raises
        ------
        PluginError
            If the name is taken; the message names both owners.
        """
        self.check_free(kind, found.name, owner)
        self._classes[kind][found.name] = found
        self._owners[kind, found.name] = owner

    def check_free(self, kind: Kind, name: str, owner: Owner) -> None:
        """Raise :class:`PluginError` naming both owners if ``name`` is taken."""
        taken_by = self._owners.get((kind, name))
        if taken_by is not None:
            raise PluginError(
                f"{owner} registers the {kind[:-1]} '{name}', which {taken_by} has registered "
                f"already: block one of them, for example with '-p no:{owner.plugin}'."
            )

    @property
    def reducers(self) -> Mapping[str, type[Reducer]]:
        """All reducer classes by name."""
        return self.classes("reducers")

    @property
    def adapters(self) -> Mapping[str, type[ModelAdapter]]:
        """All model adapter classes by name."""
        return self.classes("adapters")

    @property
    def benchmarks(self) -> Mapping[str, type[Benchmark]]:
        """All benchmark classes by name."""
        return self.classes("benchmarks")

    def classes(self, kind: Kind) -> Mapping[str, type[Any]]:
        """Return the classes of one kind, by name, in the order they were registered."""
        return MappingProxyType(self._classes[kind])

    def owner(self, kind: Kind, name: str) -> Owner:
        """Return whose class ``name`` is; ``name`` must be registered."""
        return self._owners[kind, name]

    def reducer(self, name: str) -> type[Reducer]:
        """Return a reducer class; unknown names raise :class:`ConfigError`."""
        return cast("type[Reducer]", self._get("reducers", name))

    def adapter(self, name: str) -> type[ModelAdapter]:
        """Return a model adapter class; unknown names raise :class:`ConfigError`."""
        return cast("type[ModelAdapter]", self._get("adapters", name))

    def benchmark(self, name: str) -> type[Benchmark]:
        """Return a benchmark class; unknown names raise :class:`ConfigError`."""
        return cast("type[Benchmark]", self._get("benchmarks", name))

    def make_benchmark(self, written: Mapping[str, Any]) -> Benchmark:
        """Make the benchmark that stands in YAML with every setting written out."""
        return self.benchmark(written["use"]).model_validate(besides_use(written))

    def _get(self, kind: Kind, name: str) -> type[Any]:
        found = self._classes[kind].get(name)
        if found is None:
            known = sorted(self._classes[kind])
            raise ConfigError(f"no {kind[:-1]} is called '{name}': {suggestion(name, known)}")
        return found


def as_kind(text: str) -> Kind:
    """Return the kind that ``text`` names; anything else raises :class:`ConfigError`."""
    for kind in BASES:
        if kind == text:
            return kind
    raise ConfigError(f"nothing is listed under '{text}': {suggestion(text, BASES)}")


def summary(cls: type[Any]) -> str:
    """Return the first line of a class's docstring, to list it by, in plain text."""
    return (inspect.getdoc(cls) or "").partition("\n")[0].replace("``", "")


def check_class(kind: Kind, found: object, hook: str) -> type[Any]:
    """Return ``found`` if it can be registered as a ``kind``.

    Raises
    ------
    PluginError
        If it is no class, inherits from the wrong base, is abstract or has no usable name.
    """
    base = BASES[kind]
    if not isinstance(found, type):
        raise PluginError(
            f"{hook} returned {found!r}, which is no class: return a list of classes."
        )
    if not issubclass(found, base):
        raise PluginError(
            f"{hook} returned {found.__qualname__}, which does not inherit from "
            f"{base.__module__}.{base.__qualname__}."
        )
    if inspect.isabstract(found):
        missing = ", ".join(sorted(getattr(found, "__abstractmethods__", ())))
        raise PluginError(f"{hook} returned {found.__qualname__}, which does not define {missing}.")
    name = getattr(found, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise PluginError(
            f"{hook} returned {found.__qualname__}, whose name is {name!r}: set the class variable "
            "'name' to letters, digits, '_' and '-', beginning with a letter."
        )
    return found
