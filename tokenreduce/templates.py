"""New plugins: a complete, installable distribution from the templates in ``data/new_plugin``."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from typing import Literal

from tokenreduce.errors import ConfigError
from tokenreduce.hookspecs import PROJECT
from tokenreduce.plugins import BUILTINS, own_version

PluginKind = Literal["reducer", "adapter", "benchmark"]

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_DISTRIBUTION = f"{PROJECT}-"


def new_plugin(name: str, kind: PluginKind = "reducer", target: Path | None = None) -> list[Path]:
    """Write a distribution that installs, registers one class, and passes its own tests.

    Parameters
    ----------
    name
        Of the reducer, adapter or benchmark: ``my-reducer`` becomes ``my_reducer`` in YAML,
        ``MyReducer`` in Python and ``tokenreduce-my-reducer`` for pip.
    kind
        What the plugin brings.
    target
        Folder to write, which must be empty or not there; by default the distribution's name.

    Returns
    -------
    list of Path
        The files that were written.

    Raises
    ------
    ConfigError
        If the name cannot be used or is a built-in's, or the folder is not empty.
    """
    words = _words(name, kind)
    distribution = _DISTRIBUTION + "-".join(words)
    yaml_name = "_".join(words)
    folder = Path(distribution) if target is None else target
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' is there already: give a folder that is empty or new.")
    values = {
        "name": yaml_name,
        "kind": kind,
        "distribution": distribution,
        "module": distribution.replace("-", "_"),
        "class_name": "".join(word.capitalize() for word in words),
        "title": " ".join(words).capitalize(),
        "version": own_version() or "0.1.0",
    }
    files = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        ".github/workflows/test.yml": "test.yml",
        f"src/{values['module']}.py": f"{kind}.py",
        f"tests/test_{yaml_name}.py": f"{kind}_test.py",
    }
    # All is rendered before anything is written.
    texts = {folder / path: _render(template, values) for path, template in files.items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _words(name: str, kind: PluginKind) -> list[str]:
    """Return the words of a name: letters and digits, without the package's prefix."""
    bare = name.removeprefix(_DISTRIBUTION).removeprefix(_DISTRIBUTION.replace("-", "_"))
    if not _NAME.fullmatch(bare) or keyword.iskeyword(bare):
        raise ConfigError(
            f"'{name}' cannot be the name of a {kind}: use lower-case words with '-' between them, "
            "such as 'my-reducer'."
        )
    taken = {builtin.plugin for builtin in BUILTINS}
    if bare.replace("-", "_") in taken:
        raise ConfigError(f"'{name}' is the name of a built-in: choose another.")
    return re.split("[-_]", bare)


def _render(template: str, values: dict[str, str]) -> str:
    import jinja2

    source = resources.files(PROJECT) / "data" / "new_plugin" / f"{template}.jinja"
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    return environment.from_string(source.read_text(encoding="utf-8")).render(values)
