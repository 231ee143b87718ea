"""Nothing is missing from the documentation, and what it lists is what there is."""

from __future__ import annotations

import inspect
import re
import sys
import types
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

import tokenreduce
from tests.docs.blocks import PAGES, ROOT, blocks
from tests.docs.generated import REGIONS, region
from tokenreduce import Plan, View, hookspecs, testing
from tokenreduce.plugins import PluginManager, load_plugins
from tokenreduce.registry import Owner, Registry
from tokenreduce.report import Row

DOCS = ROOT / "docs"
REGISTRY: Registry = load_plugins(entry_points=[]).registry
HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if name.startswith(hookspecs.PREFIX)
}


def first_column(page: Path) -> list[str]:
    """Return the code names in the first column of a page's tables."""
    return re.findall(r"^\| \[?`?([\w.]+)`?(?:\]\([^)]*\))? \|", page.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", REGIONS)
def test_generated_parts_are_up_to_date(name: str) -> None:
    page, make = REGIONS[name]
    found = region(name).search(page.read_text())
    assert found is not None
    assert found[1].strip() == make().strip(), "run `python -m tests.docs.generated`"


def test_every_hook_with_its_arguments_and_its_sentence() -> None:
    page = (DOCS / "plugins.md").read_text()
    rows = re.findall(r"^\| `(tokenreduce_\w+)` \| (.*?) ?\| (.*) \|$", page, re.MULTILINE)
    documented = {name: (re.findall(r"`(\w+)`", arguments), text) for name, arguments, text in rows}
    specified = {
        name: (list(inspect.signature(function).parameters), inspect.getdoc(function))
        for name, function in HOOKS.items()
    }
    assert documented == specified


def test_each_hook_is_described_in_one_sentence() -> None:
    for function in HOOKS.values():
        text = inspect.getdoc(function) or ""
        assert text.count(".") == 1
        assert text.endswith(".")


def test_the_plugin_guides_example_is_a_working_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (b for b in blocks((DOCS / "plugins.md").read_text()) if b.language == "python")
    module = types.ModuleType("tokenreduce_every_other")
    # pydantic looks up annotations there.
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(block.code, vars(module))
    failures: list[str] = []
    manager = PluginManager(failures.append)
    manager.add(Owner("every_other", "tokenreduce-every-other", "1.0"), lambda: module)
    assert failures == []
    reducer = manager.registry.reducer("every_other")(layer=2)
    assert reducer.acts_after(14) == (2,)
    assert reducer.plan(range(5)).slot.tolist() == [0, -1, 1, -1, 2]


def test_all_that_a_view_shows_is_in_the_reducer_guide() -> None:
    text = (DOCS / "guides" / "write-a-reducer.md").read_text()
    properties = {name for name, kind in vars(View).items() if isinstance(kind, property)}
    for name in {*View.__annotations__, *properties, "attention"}:
        assert f"`view.{name}" in text, name


def test_every_way_to_build_a_plan_is_in_the_reducer_guide() -> None:
    text = (DOCS / "guides" / "write-a-reducer.md").read_text()
    for name in (name for name, kind in vars(Plan).items() if isinstance(kind, classmethod)):
        assert f"`Plan.{name}(" in text, name


def test_every_variable_of_the_environment_is_explained() -> None:
    sources = [path.read_text() for path in (ROOT / "tokenreduce").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"\bTOKENREDUCE_[A-Z_]+\b", text)}
    written = "".join(page.read_text() for page in PAGES)
    assert {name for name in named if name not in written} == set()


def test_every_reducer_has_a_page_and_a_row() -> None:
    pages = {page.stem for page in (DOCS / "reducers").glob("*.md")} - {"index"}
    assert pages == set(REGISTRY.reducers)
    assert set(first_column(DOCS / "reducers" / "index.md")) >= pages


@pytest.mark.parametrize("name", REGISTRY.reducers)
def test_a_reducers_page_says_what_it_must(name: str) -> None:
    text = (DOCS / "reducers" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    for part in ("**Why it ", "Where we differ", "## Settings", "## Cost"):
        assert part in text, part
    table = dict(re.findall(r"^\| `(\w+)` \| `(.*?)` \|", text, re.MULTILINE))
    settings = REGISTRY.reducers[name].model_fields
    assert list(table) == list(settings)
    for field, written in table.items():
        assert plain(yaml.safe_load(divided(written))) == plain(settings[field].default), field


def divided(text: str) -> str:
    """Replace quotients, which YAML has none of, by their values."""
    return re.sub(r"(\d+)/(\d+)", lambda found: repr(int(found[1]) / int(found[2])), text)


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def test_every_adapter_is_listed_with_its_model_types() -> None:
    page = (DOCS / "models" / "index.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\(\w+\.md\) \| (.*?) \|", page, re.MULTILINE)
    documented = {name: tuple(re.findall(r"`(\w+)`", types)) for name, types in rows}
    assert documented == {name: cls.model_types for name, cls in REGISTRY.adapters.items()}


@pytest.mark.parametrize("name", REGISTRY.adapters)
def test_every_adapter_has_a_page(name: str) -> None:
    text = (DOCS / "models" / f"{name}.md").read_text()
    for model_type in REGISTRY.adapters[name].model_types:
        assert f"`{model_type}`" in text
    for part in ("## Tokens", "## Hazards", "## Run it"):
        assert part in text, part


def test_the_length_of_the_shortest_adapter_is_what_is_said() -> None:
    said = re.search(r"LLaVA-1.5's has (\d+) lines", (ROOT / "CONTRIBUTING.md").read_text())
    file = ROOT / "model_adapters" / "tokenreduce_model_adapters" / "llava.py"
    assert said is not None
    assert int(said[1]) == len(file.read_text().splitlines())


def test_every_benchmark_is_listed_with_its_settings() -> None:
    page = (DOCS / "benchmarks.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE)
    documented = {name: re.findall(r"`(\w+)`", settings) for name, settings in rows}
    known = {name: list(cls.model_fields) for name, cls in REGISTRY.benchmarks.items()}
    assert documented == known


def test_every_exported_name_is_in_the_python_reference() -> None:
    documented = re.findall(r"^::: (\S+)", (DOCS / "python.md").read_text(), re.MULTILINE)
    last = {name.rpartition(".")[2] for name in documented}
    # hookimpl marks hooks and has its place in the plugin guide; of errors the whole module is in.
    assert {*tokenreduce.__all__, *testing.__all__} - last == {"hookimpl", "TokenReduceError"}
    assert "tokenreduce.errors" in documented
    assert "hookimpl" in (DOCS / "plugins.md").read_text()


def test_every_number_of_a_comparison_is_explained() -> None:
    assert set(first_column(DOCS / "guides" / "compare.md")) >= {each.name for each in fields(Row)}


def test_every_page_is_in_the_navigation() -> None:
    def leaves(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [leaf for value in values for leaf in leaves(value)]

    navigation = leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    pages = [page.relative_to(DOCS).as_posix() for page in PAGES if page.is_relative_to(DOCS)]
    assert sorted(navigation) == sorted(pages)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.svg")), ids=lambda page: page.name)
def test_pictures_are_whole_and_load_nothing(page: Path) -> None:
    text = page.read_text()
    tree = ElementTree.fromstring(text)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert tree.find("{http://www.w3.org/2000/svg}title") is not None
    links = re.findall(r'href="([^"]*)', text)
    assert [link for link in links if not link.startswith(("#", "data:image/png;"))] == []
    assert "<script" not in text
