"""Tables of the documentation that are made from the code.

A test compares them with the pages; ``python -m tests.docs.generated`` writes them anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from typer.main import get_command

from benchmarks import paper_hours
from tests.adapters.family import families
from tests.docs.blocks import ROOT
from tokenreduce.cli import app
from tokenreduce.config import Classes
from tokenreduce.config_schema import json_schema
from tokenreduce.plugins import load_plugins
from tokenreduce.registry import summary
from tokenreduce.testing.adapter_checks import ADAPTER_CHECKS
from tokenreduce.testing.benchmark_checks import BENCHMARK_CHECKS
from tokenreduce.testing.check import Check, always
from tokenreduce.testing.kit import REDUCER_CHECKS

CONDITIONS = {
    "budget_fields_are_settings": "with `budget_fields`",
    "counts_as_declared": "with `budget_fields`",
    "identity_at_zero": "with budgets that may be 0",
    "frames_are_in_order": "with videos given as frames",
}
"""When a check applies that is not for everybody."""


def cli() -> str:
    """Return a section for each command: what it does, examples, arguments and options."""
    group: Any = get_command(app)
    commands = [("tokenreduce", group)]
    commands += [(f"tokenreduce {name}", command) for name, command in group.commands.items()]
    return "\n".join(line for name, command in commands for line in _command(name, command))


def _command(name: str, command: Any) -> Iterator[str]:
    text = command.help.replace("\b", "")
    about, _, rest = text.partition("Examples:\n")
    examples = [line.strip() for line in rest.splitlines() if line.startswith("  ")]
    after = [line for line in rest.splitlines() if line and not line.startswith("  ")]
    yield from (f"## {name}", "", " ".join(about.split()), "")
    if examples:
        yield from ("```console", *examples, "```", "")
    if after:
        yield from (" ".join(after), "")
    if command.params:
        yield from ("| argument or option | default | meaning |", "|---|---|---|")
        yield from map(_parameter, command.params)
        yield ""


def _parameter(parameter: Any) -> str:
    if parameter.opts[0].startswith("-"):
        value = "" if parameter.is_flag else f" {parameter.metavar or 'VALUE'}"
        names = ", ".join(f"`{option}{value}`" for option in parameter.opts)
    else:
        names = "`" + parameter.metavar.replace("|", "`, `") + "`"
    default = parameter.default
    said = "required" if parameter.required else ""
    if default is not None and default is not False and not parameter.required:
        said = f"`{default}`"
    return f"| {names} | {said} | {parameter.help or 'What to list.'} |"


def settings() -> str:
    """Return the table of a configuration file's settings, from its JSON schema."""
    registry = load_plugins(entry_points=[]).registry
    schema = json_schema(Classes(registry.reducers, registry.benchmarks))
    rows = dict(_flat(schema["properties"], schema["$defs"]))
    lines = ["| setting | values | default | meaning |", "|---|---|---|---|"]
    for name, entry in rows.items():
        default = f"`{json.dumps(entry['default'])}`" if "default" in entry else ""
        lines.append(f"| `{name}` | {_values(entry)} | {default} | {entry['description']} |")
    return "\n".join(lines) + "\n"


def _flat(properties: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, entry in properties.items():
        if "$ref" not in entry:
            yield name, entry
            continue
        inner = definitions[entry["$ref"].rpartition("/")[2]]["properties"]
        yield from ((f"{name}.{key}", value) for key, value in inner.items())


def _values(entry: dict[str, Any]) -> str:
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "anyOf" in entry:
        return " or ".join(dict.fromkeys(_values(part) for part in entry["anyOf"]))
    if "$ref" in entry or entry["type"] == "object":
        return "mapping"
    if entry["type"] == "array":
        return f"list of {_values(entry['items'])}"
    if entry["type"] == "integer":
        return f"integer >= {entry['minimum']}"
    return {"string": "text", "boolean": "true, false"}.get(entry["type"], entry["type"])


def checks() -> str:
    """Return a table of the conformance kit's checks for each kind of subject."""
    kinds = {
        "reducers": REDUCER_CHECKS,
        "model adapters": ADAPTER_CHECKS,
        "benchmarks": BENCHMARK_CHECKS,
    }
    return "\n".join(line for kind, each in kinds.items() for line in _checks(kind, each))


def _checks(kind: str, each: Sequence[Check]) -> Iterator[str]:
    yield from (f"### Checks of {kind}", "", "| check | for | what must hold |", "|---|---|---|")
    for check in each:
        whom = "all" if check.applies is always else CONDITIONS[check.name]
        what = (check.function.__doc__ or "").splitlines()[0].replace("``", "`")
        yield f"| `{check.name}` | {whom} | {what} |"
    yield ""


def families_table() -> str:
    """Return the table of model families: page, ``model_type``, what they take, what they are."""
    cases = families()
    lines = ["| adapter | `model_type` | takes | family |", "|---|---|---|---|"]
    for name, cls in load_plugins(entry_points=[]).registry.adapters.items():
        kinds = {kind for case in cases if case.adapter.name == name for kind in case.prompts}
        takes = [word for word in ("image", "video") if word in kinds]
        types = ", ".join(f"`{one}`" for one in cls.model_types)
        page = f"[`{name}`]({name}.md)"
        lines.append(f"| {page} | {types} | {', '.join(takes)} | {summary(cls)} |")
    return "\n".join(lines) + "\n"


def paper_models() -> str:
    """Return the table of what one question costs each of the paper's models."""
    return "\n".join(paper_hours.models())


def paper_benchmarks() -> str:
    """Return the table of the hours that each of the paper's benchmarks takes."""
    return "\n".join(paper_hours.hours())


REPRODUCE = ROOT / "docs" / "guides" / "reproduce-the-paper.md"

REGIONS: dict[str, tuple[Path, Callable[[], str]]] = {
    "cli": (ROOT / "docs" / "cli.md", cli),
    "settings": (ROOT / "docs" / "configuration.md", settings),
    "families": (ROOT / "docs" / "models" / "index.md", families_table),
    "checks": (ROOT / "docs" / "guides" / "conformance.md", checks),
    "paper models": (REPRODUCE, paper_models),
    "paper hours": (REPRODUCE, paper_benchmarks),
}
"""Name of a generated part to its page and what makes it."""


def region(name: str) -> re.Pattern[str]:
    """Return the pattern of a generated part in its page; its group is the part."""
    return re.compile(rf"<!-- generated: {name} -->\n(.*?)<!-- end: {name} -->", re.DOTALL)


def main() -> None:
    """Write all generated parts into their pages."""
    for name, (page, make) in REGIONS.items():
        text = f"<!-- generated: {name} -->\n\n{make().strip()}\n\n<!-- end: {name} -->"
        page.write_text(region(name).sub(lambda _, text=text: text, page.read_text()))
        sys.stdout.write(f"{page.relative_to(ROOT)}: {name}\n")


if __name__ == "__main__":
    main()
