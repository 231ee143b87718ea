"""What `new-plugin` writes and refuses; whether it works is for the slow test next to this one."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from tokenreduce.errors import ConfigError
from tokenreduce.templates import PluginKind, new_plugin

KINDS: tuple[PluginKind, ...] = ("reducer", "adapter", "benchmark")


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_distribution_is_written(tmp_path: Path, kind: PluginKind) -> None:
    folder = tmp_path / "new"
    files = new_plugin("two-words", kind, folder)
    assert sorted(files) == sorted(path for path in folder.rglob("*") if path.is_file())
    assert {str(path.relative_to(folder)) for path in files} == {
        "pyproject.toml",
        "README.md",
        ".gitignore",
        ".github/workflows/test.yml",
        "src/tokenreduce_two_words.py",
        "tests/test_two_words.py",
    }
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "tokenreduce-two-words"
    assert project["entry-points"]["tokenreduce"] == {"two_words": "tokenreduce_two_words"}
    for path in files:
        text = path.read_text()
        assert "{{" not in text.replace("${{", "")
        assert "{%" not in text
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        if path.suffix == ".py":
            ast.parse(text)
            assert max(map(len, text.splitlines())) <= 100


def test_a_reducer_is_about_thirty_lines_and_its_test_five(tmp_path: Path) -> None:
    new_plugin("mine", "reducer", tmp_path)
    module = ast.parse((tmp_path / "src" / "tokenreduce_mine.py").read_text())
    (cls,) = [node for node in module.body if isinstance(node, ast.ClassDef)]
    assert (cls.end_lineno or 0) - cls.lineno < 30
    test = (tmp_path / "tests" / "test_mine.py").read_text()
    assert len([line for line in test.splitlines() if line]) == 5


@pytest.mark.parametrize("name", ["tokenreduce-my-own", "tokenreduce_my_own", "my_own", "my-own"])
def test_names_mean_the_same_with_and_without_the_prefix(tmp_path: Path, name: str) -> None:
    new_plugin(name, "benchmark", tmp_path)
    assert (tmp_path / "src" / "tokenreduce_my_own.py").is_file()
    assert "class MyOwn(Benchmark)" in (tmp_path / "src" / "tokenreduce_my_own.py").read_text()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "cannot be the name"),
        ("My-Reducer", "cannot be the name"),
        ("2fast", "cannot be the name"),
        ("../evil", "cannot be the name"),
        ("my--reducer", "cannot be the name"),
        ("class", "cannot be the name"),
        ("tokenreduce-", "cannot be the name"),
        ("vas", "built-in"),
        ("keep-all", "built-in"),
        ("llava-onevision", "built-in"),
    ],
)
def test_names_that_cannot_be_are_refused_and_nothing_is_written(
    tmp_path: Path, name: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        new_plugin(name, "reducer", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenreduce-mine").mkdir()
    (tmp_path / "tokenreduce-mine" / "work.txt").write_text("weeks of it")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="'tokenreduce-mine' is there already"):
        new_plugin("mine")
    with pytest.raises(ConfigError, match=r"work\.txt' is there already"):
        new_plugin("mine", target=tmp_path / "tokenreduce-mine" / "work.txt")
    assert len(list(tmp_path.rglob("*"))) == 2
    assert new_plugin("other")[0] == Path("tokenreduce-other/pyproject.toml")
