"""What the project promises about itself: versions, exports, commands, files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tokenreduce

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Of the usual environment, and of the one for lmms-eval.
CONSTRAINTS = [(ROOT / name).read_text() for name in ("constraints.txt", "constraints-lmms.txt")]


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_lower_bounds_are_versions_that_were_tried() -> None:
    pinned = [
        (canonical(name), version)
        for text in CONSTRAINTS
        for name, version in re.findall(r"^([\w.-]+)==(.+)$", text, re.MULTILINE)
    ]
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in [entry for group in groups for entry in group]:
        if requirement.startswith("tokenreduce["):  # its own extras, which are among the groups
            continue
        match = re.fullmatch(r"([\w.-]+)(?:\[\w+\])?[>=]=([\d.]+)(?:,<\d+)?", requirement)
        assert match is not None, requirement
        tried = [version for name, version in pinned if name == canonical(match[1])]
        assert any(version.startswith(match[2]) for version in tried), requirement


@pytest.mark.parametrize("text", CONSTRAINTS, ids=["usual", "lmms"])
def test_constraints_are_plain_pins(text: str) -> None:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    command = "pip install -c constraints.txt -e '.[test]' && pytest\n"
    assert command in (ROOT / "README.md").read_text()
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "package",
    ["tokenreduce", "plugins/tokenreduce_plugins", "model_adapters/tokenreduce_model_adapters"],
)
def test_packages_say_that_they_are_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()


def test_every_exported_name_is_there() -> None:
    assert sorted(tokenreduce.__all__) == tokenreduce.__all__
    for name in tokenreduce.__all__:
        assert getattr(tokenreduce, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'redcue'"):
        tokenreduce.redcue  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, tokenreduce; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "set()\n"
