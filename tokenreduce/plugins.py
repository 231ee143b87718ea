"""Finds, loads and calls plugins; a broken one costs only itself."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any, Literal, NamedTuple

import pluggy

from tokenreduce import hookspecs
from tokenreduce.errors import PluginError, TokenReduceError
from tokenreduce.hookspecs import PREFIX, PROJECT, hookimpl
from tokenreduce.names import suggestion
from tokenreduce.registry import Kind, Owner, Registry, check_class

BLOCK_VARIABLE = "TOKENREDUCE_BLOCK_PLUGINS"
"""Environment variable: names of plugins not to load, separated by commas."""

TRACE_VARIABLE = "TOKENREDUCE_TRACE_PLUGINS"
"""Environment variable: ``1`` writes every hook call to stderr."""


class Builtin(NamedTuple):
    """Something that comes with the package: its plugin name, kind and ``module:class``."""

    plugin: str
    kind: Kind
    path: str


BUILTINS = (
    Builtin("keep_all", "reducers", "tokenreduce_plugins.keep_all:KeepAll"),
    Builtin("vas", "reducers", "tokenreduce_plugins.vas:Vas"),
    Builtin("fastv", "reducers", "tokenreduce_plugins.fastv:FastV"),
    Builtin("vcc", "reducers", "tokenreduce_plugins.vcc:Vcc"),
    Builtin("tome", "reducers", "tokenreduce_plugins.tome:ToMe"),
    Builtin("random", "reducers", "tokenreduce_plugins.random:Random"),
    Builtin("spatial_average", "reducers", "tokenreduce_plugins.spatial_average:SpatialAverage"),
    Builtin("temporal_average", "reducers", "tokenreduce_plugins.temporal_average:TemporalAverage"),
    Builtin("pyramid_drop", "reducers", "tokenreduce_plugins.pyramid_drop:PyramidDrop"),
    Builtin("sparse_vlm", "reducers", "tokenreduce_plugins.sparse_vlm:SparseVLM"),
    Builtin("frame_fusion", "reducers", "tokenreduce_plugins.frame_fusion:FrameFusion"),
    Builtin("evs", "reducers", "tokenreduce_plugins.evs:Evs"),
    Builtin("div_prune", "reducers", "tokenreduce_plugins.div_prune:DivPrune"),
    Builtin("vtw", "reducers", "tokenreduce_plugins.vtw:Vtw"),
    Builtin("gemma3", "adapters", "tokenreduce_model_adapters.gemma3:Gemma3"),
    Builtin("generic", "adapters", "tokenreduce_model_adapters.generic:Generic"),
    Builtin("glm4v", "adapters", "tokenreduce_model_adapters.glm4v:Glm4v"),
    Builtin("idefics3", "adapters", "tokenreduce_model_adapters.idefics3:Idefics3"),
    Builtin("internvl", "adapters", "tokenreduce_model_adapters.internvl:InternVL"),
    Builtin("llava", "adapters", "tokenreduce_model_adapters.llava:Llava"),
    Builtin("llava_next", "adapters", "tokenreduce_model_adapters.llava_next:LlavaNext"),
    Builtin(
        "llava_next_video", "adapters", "tokenreduce_model_adapters.llava_next_video:LlavaNextVideo"
    ),
    Builtin(
        "llava_onevision", "adapters", "tokenreduce_model_adapters.llava_onevision:LlavaOnevision"
    ),
    Builtin("longva", "adapters", "tokenreduce_model_adapters.longva:LongVa"),
    Builtin("mistral3", "adapters", "tokenreduce_model_adapters.mistral3:Mistral3"),
    Builtin("ovis2", "adapters", "tokenreduce_model_adapters.ovis2:Ovis2"),
    Builtin("perception_lm", "adapters", "tokenreduce_model_adapters.perception_lm:PerceptionLM"),
    Builtin("pllava", "adapters", "tokenreduce_model_adapters.pllava:Pllava"),
    Builtin("qwen2_5_vl", "adapters", "tokenreduce_model_adapters.qwen2_5_vl:Qwen2_5_VL"),
    Builtin("qwen2_vl", "adapters", "tokenreduce_model_adapters.qwen2_vl:Qwen2VL"),
    Builtin("qwen3_vl", "adapters", "tokenreduce_model_adapters.qwen3_vl:Qwen3VL"),
    Builtin("smolvlm", "adapters", "tokenreduce_model_adapters.smolvlm:SmolVLM"),
    Builtin("video_llama_3", "adapters", "tokenreduce_model_adapters.video_llama_3:VideoLlama3"),
    Builtin("video_llava", "adapters", "tokenreduce_model_adapters.video_llava:VideoLlava"),
    Builtin("vila", "adapters", "tokenreduce_model_adapters.vila:Vila"),
    Builtin("vipllava", "adapters", "tokenreduce_model_adapters.vipllava:VipLlava"),
    Builtin("embedded", "benchmarks", "tokenreduce.embedded.benchmark:EmbeddedBenchmark"),
    Builtin("lmms", "benchmarks", "tokenreduce.lmms.benchmark:LmmsBenchmark"),
    Builtin("msvd_qa", "benchmarks", "tokenreduce.lmms.msvd_qa:MsvdQa"),
    Builtin("jsonl", "benchmarks", "tokenreduce.jsonl.benchmark:JsonlBenchmark"),
)
"""The built-ins; each is imported only when plugins load."""

REGISTER_HOOKS: dict[Kind, str] = {
    "reducers": "tokenreduce_register_reducers",
    "adapters": "tokenreduce_register_model_adapters",
    "benchmarks": "tokenreduce_register_benchmarks",
}

Event = Literal["run_started", "cell_finished", "run_finished"]
Warn = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class PluginRecord:
    """What became of one plugin.

    Attributes
    ----------
    owner
        Its name, distribution and version.
    status
        ``loaded``, ``failed`` (found broken while loading, or while watching a run) or ``blocked``.
    added
        Names of the classes it registered, as ``reducer vas``.
    error
        What went wrong, in one line; empty if nothing did.
    details
        The full error text with its traceback; empty if nothing went wrong.
    """

    owner: Owner
    status: Literal["loaded", "failed", "blocked"]
    added: tuple[str, ...] = ()
    error: str = ""
    details: str = ""


class _BuiltinPlugin:
    """One built-in as a plugin, so that it goes through the same hooks as everybody's."""

    def __init__(self, builtin: Builtin) -> None:
        self.builtin = builtin

    def classes(self, kind: Kind) -> list[type[Any]]:
        if kind != self.builtin.kind:
            return []
        module, _, attribute = self.builtin.path.partition(":")
        return [getattr(importlib.import_module(module), attribute)]

    @hookimpl
    def tokenreduce_register_reducers(self) -> list[type[Any]]:
        return self.classes("reducers")

    @hookimpl
    def tokenreduce_register_model_adapters(self) -> list[type[Any]]:
        return self.classes("adapters")

    @hookimpl
    def tokenreduce_register_benchmarks(self) -> list[type[Any]]:
        return self.classes("benchmarks")


class PluginManager:
    """Loaded plugins, the classes they registered, and what went wrong.

    Made by :func:`load_plugins`.

    Parameters
    ----------
    warn
        Called with one line for each plugin that fails.
    """

    def __init__(self, warn: Warn) -> None:
        self.registry = Registry()
        self._records: dict[Owner, PluginRecord] = {}
        self._warn = warn
        self._pluggy = _new_pluggy()
        self._objects: dict[Owner, object] = {}
        if os.environ.get(TRACE_VARIABLE, "0") not in ("", "0"):
            self._pluggy.trace.root.setwriter(_write_stderr)
            self._pluggy.enable_tracing()

    @property
    def records(self) -> tuple[PluginRecord, ...]:
        """What became of every plugin, in the order they were met."""
        return tuple(self._records.values())

    @property
    def failures(self) -> tuple[PluginRecord, ...]:
        """The records of plugins that failed."""
        return tuple(record for record in self.records if record.status == "failed")

    def add(self, owner: Owner, load: Callable[[], object]) -> None:
        """Load one plugin and register its classes, all of them or none.

        Parameters
        ----------
        owner
            Whose plugin it is.
        load
            Returns the plugin object; whatever it raises is remembered as the plugin's failure.
        """
        try:
            self._check_name_free(owner)
            plugin = load()
            if not isinstance(plugin, _BuiltinPlugin):  # those are all of one class
                _check_plugin(plugin)
            self._pluggy.register(plugin, owner.plugin)
            self._objects[owner] = plugin
            added = self._register_classes(owner)
        # A plugin that calls sys.exit() while it is imported must not end the program either.
        except (Exception, SystemExit) as error:
            self._forget(owner)
            self._fail(owner, error, "was not loaded")
        else:
            self._records[owner] = PluginRecord(owner, "loaded", added)

    def block(self, owner: Owner) -> None:
        """Remember that a plugin was blocked; nothing of it is imported."""
        self._records[owner] = PluginRecord(owner, "blocked")

    def notify(self, event: Event, **arguments: Any) -> None:
        """Tell all observers about an event; one that raises is remembered and not asked again.

        Parameters
        ----------
        event
            Hook name without its prefix, such as ``run_started``.
        **arguments
            The hook's arguments, by name.
        """
        for owner in list(self._objects):
            try:
                self._call(PREFIX + event, owner, **arguments)
            except (Exception, SystemExit) as error:
                self._forget(owner)
                self._fail(owner, error, f"failed in {PREFIX}{event}")

    def _call(self, hook: str, owner: Owner, **arguments: Any) -> list[Any]:
        others = [plugin for key, plugin in self._objects.items() if key != owner]
        results: list[Any] = self._pluggy.subset_hook_caller(hook, others)(**arguments)
        return results

    def _register_classes(self, owner: Owner) -> tuple[str, ...]:
        found: dict[tuple[Kind, str], type[Any]] = {}
        for kind, hook in REGISTER_HOOKS.items():
            for cls in _flatten(self._call(hook, owner), hook):
                checked = check_class(kind, cls, hook)
                self.registry.check_free(kind, checked.name, owner)
                if (kind, checked.name) in found:
                    raise PluginError(f"{owner} registers the {kind[:-1]} '{checked.name}' twice.")
                found[kind, checked.name] = checked
        for (kind, _), cls in found.items():
            self.registry.add(kind, cls, owner)
        return tuple(f"{kind[:-1]} {name}" for kind, name in found)

    def _check_name_free(self, owner: Owner) -> None:
        for other in self._objects:
            if other.plugin == owner.plugin:
                raise PluginError(
                    f"{owner} has the name of {other}: block one of the two distributions, for "
                    f"example with '-p no:{owner.distribution}'."
                )

    def _forget(self, owner: Owner) -> None:
        if self._objects.pop(owner, None) is not None:
            self._pluggy.unregister(name=owner.plugin)

    def _fail(self, owner: Owner, error: BaseException, what: str) -> None:
        before = self._records.get(owner)
        summary = _summary(error)
        details = "".join(traceback.format_exception(error)).rstrip()
        added = before.added if before else ()
        self._records[owner] = PluginRecord(owner, "failed", added, summary, details)
        self._warn(
            f"tokenreduce: {owner} {what}: {summary} ('tokenreduce plugins' shows all of it)"
        )


def load_plugins(
    *,
    block: Collection[str] = (),
    strict: bool = False,
    warn: Warn | None = None,
    builtins: Iterable[Builtin] = BUILTINS,
    entry_points: Iterable[metadata.EntryPoint] | None = None,
) -> PluginManager:
    """Load the built-ins and every installed plugin that is not blocked.

    Parameters
    ----------
    block
        Names of plugins, or of whole distributions, not to import; those of the environment
        variable ``TOKENREDUCE_BLOCK_PLUGINS`` are added.
    strict
        Whether a broken plugin is an error.
    warn
        Called with one line for each broken plugin; writes to stderr by default.
    builtins
        What comes with the package.
    entry_points
        Entry points of third-party plugins; the installed ones of the group ``tokenreduce``
        by default.

    Raises
    ------
    PluginError
        If ``strict`` and any plugin is broken; the message names all of them.
    """
    blocked = {*block, *_blocked_by_environment()}
    manager = PluginManager(_no_warning if strict else warn or _warn_on_stderr)
    version = own_version()  # once: it is looked up among all installed distributions
    for builtin in builtins:
        owner = Owner(builtin.plugin, PROJECT, version)
        _add_unless_blocked(manager, owner, partial(_BuiltinPlugin, builtin), blocked)
    found = metadata.entry_points(group=PROJECT) if entry_points is None else entry_points
    for entry_point in sorted(found, key=_entry_point_order):
        _add_unless_blocked(manager, _owner_of(entry_point), entry_point.load, blocked)
    if strict and manager.failures:
        listed = " ".join(f"{failed.owner}: {failed.error}" for failed in manager.failures)
        raise PluginError(f"broken plugins, and plugins are strict: {listed}")
    return manager


def own_version() -> str:
    """Return the installed version of this package; empty if it is not installed."""
    try:
        return metadata.version(PROJECT)
    except metadata.PackageNotFoundError:  # run from a checkout that was not installed
        return ""


def _new_pluggy() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _add_unless_blocked(
    manager: PluginManager, owner: Owner, load: Callable[[], object], blocked: Collection[str]
) -> None:
    if owner.plugin in blocked or owner.distribution in blocked:
        manager.block(owner)
    else:
        manager.add(owner, load)


def _check_plugin(plugin: object) -> None:
    if plugin is None or isinstance(plugin, type):
        raise PluginError(
            f"the entry point leads to {plugin!r}: point it at a module or an instance."
        )
    hash(plugin)  # pluggy keeps plugins in sets
    # A manager of its own: whatever is wrong is found before the shared one knows the plugin.
    scratch = _new_pluggy()
    specs = [name for name in vars(hookspecs) if name.startswith(PREFIX)]
    hooks = {
        name: options
        for name in dir(plugin)
        if (options := scratch.parse_hookimpl_opts(plugin, name))
    }
    for name, options in hooks.items():
        hook = options["specname"] or name
        if hook not in specs:
            raise PluginError(f"'{hook}' is no hook: {suggestion(hook, specs)}")
    for name in dir(plugin):
        if name.startswith(PREFIX) and name not in hooks and _is_function(plugin, name):
            raise PluginError(
                f"'{name}' is not marked as a hook: put @tokenreduce.hookimpl above it."
            )
    if not hooks:
        raise PluginError(f"{plugin!r} implements no hook: {suggestion('', specs)}")
    try:
        scratch.register(plugin)
    except pluggy.PluginValidationError as error:
        raise PluginError(_one_line(str(error))) from error


def _is_function(plugin: object, name: str) -> bool:
    return inspect.isroutine(inspect.getattr_static(plugin, name, None))


def _flatten(results: Sequence[Any], hook: str) -> list[Any]:
    flat: list[Any] = []
    for result in results:
        if not isinstance(result, list | tuple):
            raise PluginError(f"{hook} returned {result!r}: return a list of classes.")
        flat.extend(result)
    return flat


def _owner_of(entry_point: metadata.EntryPoint) -> Owner:
    distribution = entry_point.dist
    if distribution is None:
        return Owner(entry_point.name, "unknown distribution")
    return Owner(entry_point.name, distribution.name, distribution.version)


def _entry_point_order(entry_point: metadata.EntryPoint) -> tuple[str, str]:
    # The order of sys.path must not decide which of two plugins gets a name.
    return _owner_of(entry_point).distribution.lower(), entry_point.name


def _blocked_by_environment() -> set[str]:
    names = os.environ.get(BLOCK_VARIABLE, "").split(",")
    return {name.strip() for name in names if name.strip()}


def _one_line(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def _summary(error: BaseException) -> str:
    if isinstance(error, TokenReduceError):
        return _one_line(str(error))
    return _one_line(f"{type(error).__name__}: {error}")


def _write_stderr(text: str) -> None:
    sys.stderr.write(text)


def _warn_on_stderr(line: str) -> None:
    sys.stderr.write(line + "\n")


def _no_warning(line: str) -> None:
    """Say nothing: a strict load raises instead."""
