"""The command around the templates."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tokenreduce.cli_new_plugin import new_plugin_command
from tokenreduce.errors import ConfigError

APP = typer.Typer()
APP.command()(new_plugin_command)


@pytest.mark.parametrize(
    ("options", "base"),
    [([], "ScoringReducer"), (["--adapter"], "ModelAdapter"), (["--benchmark"], "Benchmark")],
)
def test_files_are_listed_and_the_next_step_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], base: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(APP, ["my-own", *options])
    assert done.exit_code == 0
    *files, last = done.stdout.splitlines()
    assert sorted(map(Path, files)) == sorted(
        path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()
    )
    assert last == "next: pip install -e 'tokenreduce-my-own[test]' && pytest tokenreduce-my-own"
    module = tmp_path / "tokenreduce-my-own" / "src" / "tokenreduce_my_own.py"
    assert f"class MyOwn({base})" in module.read_text()


def test_two_kinds_at_once_are_refused(tmp_path: Path) -> None:
    into = str(tmp_path / "new")
    done = CliRunner().invoke(APP, ["mine", "--adapter", "--benchmark", "--into", into])
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "new").exists()
