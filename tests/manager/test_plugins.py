"""A broken plugin costs only itself, and everybody is told whose it is."""

import sys
from collections.abc import Callable
from importlib import metadata
from types import ModuleType

import pytest

from tokenreduce.adapter import ModelAdapter
from tokenreduce.errors import ConfigError, PluginError
from tokenreduce.hookspecs import hookimpl
from tokenreduce.plugins import BUILTINS, Builtin, PluginManager, load_plugins
from tokenreduce.registry import Owner

Install = Callable[..., None]
VAS = Builtin("vas", "reducers", "tokenreduce_plugins.vas:Vas")
OWNER = Owner("mine", "my-distribution", "1.0")
CELL = "tokenreduce_cell_finished"


def module(*functions: Callable[..., object]) -> ModuleType:
    made = ModuleType("made_for_a_test")
    for function in functions:
        setattr(made, function.__name__, function)
    return made


def load(**settings: object) -> tuple[PluginManager, list[str]]:
    lines: list[str] = []
    manager = load_plugins(warn=lines.append, builtins=[VAS], **settings)  # type: ignore[arg-type]
    return manager, lines


def add(plugin: object) -> PluginManager:
    manager = PluginManager(lambda line: None)
    manager.add(OWNER, lambda: plugin)
    return manager


def test_every_builtin_loads_under_its_own_name() -> None:
    lines: list[str] = []
    manager = load_plugins(warn=lines.append, entry_points=[])
    assert lines == []
    for builtin in BUILTINS:
        found = manager.registry.classes(builtin.kind)[builtin.plugin]
        assert f"{found.__module__}:{found.__qualname__}" == builtin.path


def test_good_plugin_adds_its_reducer(install: Install) -> None:
    install("good")
    manager, lines = load()
    assert lines == []
    assert manager.registry.reducer("good_reducer").__name__ == "Good"
    owner = manager.registry.owner("reducers", "good_reducer")
    assert str(owner) == "plugin 'good' (tokenreduce-fixture-good 0.4)"
    assert manager.records[-1].added == ("reducer good_reducer",)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("import_error", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
        ("wrong_signature", "Argument(s) {'model'} are declared in the hookimpl"),
        (
            "misspelt_hook",
            "'tokenreduce_register_reducer' is no hook: did you mean "
            "'tokenreduce_register_reducers'?",
        ),
        ("duplicate_name", "registers the reducer 'vas', which plugin 'vas' (tokenreduce"),
        ("hook_raises", "RuntimeError: the hook of hook_raises raised"),
    ],
)
def test_broken_plugin_costs_only_itself(install: Install, name: str, expected: str) -> None:
    install("good", name)
    manager, lines = load()
    assert set(manager.registry.reducers) == {"vas", "good_reducer"}
    assert manager.registry.reducer("vas").__module__ == "tokenreduce_plugins.vas"
    (failed,) = manager.failures
    assert (failed.owner.plugin, failed.owner.version) == (name, f"0.{len(name)}")
    assert expected in failed.error
    assert "Traceback" in failed.details
    (line,) = lines
    assert f"tokenreduce-fixture-{name.replace('_', '-')} 0.{len(name)}" in line
    assert expected in line
    assert "\n" not in line


def test_all_broken_plugins_at_once(install: Install) -> None:
    broken = {"import_error", "wrong_signature", "misspelt_hook", "duplicate_name", "hook_raises"}
    install("good", *broken)
    manager, lines = load()
    assert set(manager.registry.reducers) == {"vas", "good_reducer"}
    assert {record.owner.plugin for record in manager.failures} == broken
    assert len(lines) == len(broken)


def test_strict_names_every_broken_plugin(install: Install) -> None:
    install("good", "import_error", "hook_raises")
    with pytest.raises(PluginError) as caught:
        load(strict=True)
    assert "tokenreduce-fixture-import-error" in str(caught.value)
    assert "tokenreduce-fixture-hook-raises" in str(caught.value)


@pytest.mark.parametrize("name", ["good", "tokenreduce-fixture-good"])
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_blocked_plugin_is_not_imported(
    install: Install, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    install("good")
    if way == "environment":
        monkeypatch.setenv("TOKENREDUCE_BLOCK_PLUGINS", f"other, {name}")
        manager, lines = load()
    else:
        manager, lines = load(block=[name])
    assert lines == []
    assert "tokenreduce_fixture_good" not in sys.modules
    assert set(manager.registry.reducers) == {"vas"}
    assert manager.records[-1].status == "blocked"


def test_a_blocked_builtin_makes_room_for_another(install: Install) -> None:
    install("duplicate_name")
    manager, lines = load(block=["vas"])
    assert lines == []
    assert manager.registry.reducer("vas").__name__ == "AnotherVas"


@hookimpl(specname="tokenreduce_register_reducers")
def no_reducers() -> list[type]:
    return []


def test_two_plugins_of_one_name_are_told_apart_by_distribution() -> None:
    manager = add(module(no_reducers))
    manager.add(Owner("mine", "other-distribution", "2.0"), lambda: sys)
    (failed,) = manager.failures
    assert "my-distribution 1.0" in failed.error
    assert "-p no:other-distribution" in failed.error


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("vas", "returned 'vas': return a list of classes"),
        (["vas"], "returned 'vas', which is no class"),
        ([dict], "which does not inherit from tokenreduce.reducer.Reducer"),
        ([ModelAdapter], "which does not inherit from tokenreduce.reducer.Reducer"),
    ],
)
def test_nonsense_from_a_hook_is_named(answer: object, expected: str) -> None:
    @hookimpl
    def tokenreduce_register_reducers() -> object:
        return answer

    manager = add(module(tokenreduce_register_reducers))
    assert expected in manager.failures[0].error


def test_abstract_class_is_named_with_what_it_lacks() -> None:
    class Unfinished(ModelAdapter):
        name = "unfinished"
        model_types = ("x",)

    @hookimpl
    def tokenreduce_register_model_adapters() -> object:
        return [Unfinished]

    manager = add(module(tokenreduce_register_model_adapters))
    assert "does not define layout, load" in manager.failures[0].error


def test_unmarked_hook_is_an_error() -> None:
    def tokenreduce_register_reducers() -> list[type]:
        return []

    manager = add(module(tokenreduce_register_reducers))
    assert "put @tokenreduce.hookimpl above it" in manager.failures[0].error


def test_plugin_that_exits_while_imported_does_not_end_the_program() -> None:
    manager = PluginManager(lambda line: None)
    manager.add(OWNER, lambda: sys.exit("gone"))
    assert manager.failures[0].error == "SystemExit: gone"


def test_observers_see_the_run_and_a_raising_one_is_not_asked_again() -> None:
    seen: list[object] = []

    @hookimpl
    def tokenreduce_cell_finished(row: object) -> None:
        seen.append(row)

    def raising(row: object) -> None:
        seen.append("raised")
        raise RuntimeError("watching hurts")

    lines: list[str] = []
    manager = PluginManager(lines.append)
    manager.add(Owner("bad", "bad-distribution"), lambda: module(hookimpl(raising, specname=CELL)))
    manager.add(OWNER, lambda: module(tokenreduce_cell_finished))
    manager.notify("cell_finished", row="first")
    manager.notify("cell_finished", row="second")
    assert seen == ["raised", "first", "second"]
    assert [record.owner.plugin for record in manager.failures] == ["bad"]
    assert lines == [
        "tokenreduce: plugin 'bad' (bad-distribution) failed in tokenreduce_cell_finished: "
        "RuntimeError: watching hurts ('tokenreduce plugins' shows all of it)"
    ]


def test_hook_calls_can_be_traced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKENREDUCE_TRACE_PLUGINS", "1")
    load(entry_points=[])
    assert "tokenreduce_register_reducers" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["reducer", "adapter", "benchmark"])
def test_unknown_name_lists_the_known_and_the_closest(kind: str) -> None:
    registry = load_plugins(entry_points=[]).registry
    known = sorted(registry.classes(f"{kind}s"))  # type: ignore[arg-type]
    misspelt = known[-1][:-1] + "z"
    with pytest.raises(ConfigError) as caught:
        getattr(registry, kind)(misspelt)
    assert f"no {kind} is called '{misspelt}'" in str(caught.value)
    assert f"did you mean '{known[-1]}'?" in str(caught.value)
    assert f"Known: {', '.join(known)}." in str(caught.value)


def test_nothing_is_shared_between_two_managers(install: Install) -> None:
    install("good")
    first, _ = load()
    second, _ = load(entry_points=[])
    assert "good_reducer" in first.registry.reducers
    assert "good_reducer" not in second.registry.reducers


def test_installed_entry_points_are_found_by_group(install: Install) -> None:
    install("good")
    assert "good" in metadata.entry_points(group="tokenreduce").names
