"""Runs the command as users do: in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCES = [ROOT, ROOT / "plugins", ROOT / "model_adapters"]

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Return a function that runs `tokenreduce` with arguments, in an empty folder."""

    def run(*arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
        folders = [path] if path else []
        python_path = os.pathsep.join(str(folder) for folder in [*folders, *SOURCES])
        return subprocess.run(
            [sys.executable, "-m", "tokenreduce", *arguments],
            env={**os.environ, "PYTHONPATH": python_path, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )

    return run


@pytest.fixture(autouse=True)
def environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what commands that run in this process set for the libraries."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
