"""Broken plugins and the command line, with everything in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BROKEN = ["import_error", "wrong_signature", "misspelt_hook", "duplicate_name", "hook_raises"]


@pytest.fixture(autouse=True)
def everything(install: Callable[..., None]) -> None:
    install("good", *BROKEN)


def tokenreduce(
    site: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    sources = [site, ROOT, ROOT / "plugins", ROOT / "model_adapters"]
    path = {"PYTHONPATH": os.pathsep.join(map(str, sources))}
    return subprocess.run(
        [sys.executable, "-m", "tokenreduce", *arguments],
        env={**os.environ, **path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_good_plugin_and_builtins_are_listed_and_each_broken_one_is_named(site: Path) -> None:
    done = tokenreduce(site, "list", "reducers")
    assert done.returncode == 0
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names[:2] == ["keep_all", "vas"]
    assert names[-1] == "good_reducer"
    assert done.stdout.rstrip().endswith("[tokenreduce-fixture-good]")
    lines = done.stderr.splitlines()
    assert len(lines) == len(BROKEN)
    for name in BROKEN:
        assert sum(f"tokenreduce-fixture-{name.replace('_', '-')} " in line for line in lines) == 1


def test_plugins_shows_the_full_text_of_every_failure(site: Path) -> None:
    done = tokenreduce(site, "plugins")
    assert done.returncode == 0
    assert "loaded   good  (tokenreduce-fixture-good 0.4)  reducer good_reducer" in done.stdout
    for name in BROKEN:
        assert f"failed   {name}  (tokenreduce-fixture-{name.replace('_', '-')}" in done.stdout
    assert 'raise RuntimeError("the hook of hook_raises raised")' in done.stdout


def test_strict_is_an_error_that_names_them_all(site: Path) -> None:
    done = tokenreduce(site, "--strict-plugins", "list", "reducers")
    assert (done.returncode, done.stdout) == (2, "")
    assert all(f"plugin '{name}'" in done.stderr for name in BROKEN)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("way", ["option", "environment"])
def test_blocked_plugins_are_silent(site: Path, way: str) -> None:
    options = [part for name in BROKEN for part in ("-p", f"no:{name}")] if way == "option" else []
    environment = {} if way == "option" else {"TOKENREDUCE_BLOCK_PLUGINS": ",".join(BROKEN)}
    done = tokenreduce(site, *options, "--strict-plugins", "plugins", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert sum(line.startswith("blocked") for line in done.stdout.splitlines()) == len(BROKEN)


def test_plugins_are_blocked_and_strict_from_yaml(site: Path, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("reducers: {vass: }\nplugins: {block: [hook_raises], strict: true}\n")
    done = tokenreduce(site, "compare", str(file))
    assert done.returncode == 2
    assert "plugin 'import_error'" in done.stderr
    assert "hook_raises" not in done.stderr
