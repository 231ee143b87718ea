"""The hooks a plugin may implement; project, marker, prefix and entry-point group share one name.

Hooks find classes and watch runs. Nothing in a model's forward pass is a hook call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from tokenreduce.adapter import ModelAdapter
    from tokenreduce.benchmark import Benchmark
    from tokenreduce.reducer import Reducer

PROJECT = "tokenreduce"
"""Name of the pluggy project and of the entry-point group."""

PREFIX = "tokenreduce_"
"""Every function of a plugin whose name starts so is meant as a hook."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook it is named after."""


@hookspec
def tokenreduce_register_reducers() -> Sequence[type[Reducer]]:  # type: ignore[empty-body]
    """Return the reducer classes that the plugin adds."""


@hookspec
def tokenreduce_register_model_adapters() -> Sequence[type[ModelAdapter]]:  # type: ignore[empty-body]
    """Return the model adapter classes that the plugin adds."""


@hookspec
def tokenreduce_register_benchmarks() -> Sequence[type[Benchmark]]:  # type: ignore[empty-body]
    """Return the benchmark classes that the plugin adds."""


@hookspec
def tokenreduce_run_started(config: Mapping[str, Any], labels: Sequence[str]) -> None:
    """See the configuration of a comparison, and the label of each of its rows, before it runs."""


@hookspec
def tokenreduce_cell_finished(row: Mapping[str, Any]) -> None:
    """See the finished row of one reducer, as it will stand in the JSON document."""


@hookspec
def tokenreduce_run_finished(document: Mapping[str, Any]) -> None:
    """See the whole JSON document of a comparison that ran to its end."""
