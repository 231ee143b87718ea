"""New plugins as their users make them: written, installed, listed, tested and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OPTIONS = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs programs of an environment with tokenreduce installed in it.

    Its dependencies are those of this environment: there is no network to install them from.
    """
    folder = tmp_path_factory.mktemp("environment")
    env = folder / "env"
    venv.create(env)
    site = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(env)}))
    site.joinpath("dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TOKENREDUCE"))}
    # As in tests/conftest.py: tiny tensors lose more to a second thread than they gain.
    variables |= {"TOKENREDUCE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}

    def run(*command: str, cwd: Path = folder) -> str:
        first, *rest = command
        done = subprocess.run(
            [str(env / "bin" / first), *rest],
            cwd=cwd,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    install(run, ROOT)
    return run


def install(run: Run, *folders: Path) -> None:
    run("python", "-m", "pip", "install", *OPTIONS, *map(str, folders))


def made(run: Run, tmp_path: Path, name: str, *options: str) -> Path:
    """Write a plugin with the command, install it, and run its tests."""
    folder = tmp_path / name
    run("tokenreduce", "new-plugin", name, *options, "--into", str(folder))
    install(run, folder)
    said = run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert " passed" in said
    assert "failed" not in said
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_reducer_and_a_benchmark_from_nothing_to_a_comparison(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    made(run, tmp_path, "my-reducer")
    made(run, tmp_path, "my-questions", "--benchmark")
    listed = run("tokenreduce", "list", "reducers", "--settings")
    assert "[tokenreduce-my-reducer]" in listed
    assert "ratio (0.5): share of the visual tokens to drop" in listed
    assert "loaded   my_questions  (tokenreduce-my-questions 0.1.0)" in run(
        "tokenreduce", "plugins"
    )
    data = tmp_path / "data"
    data.mkdir()
    code = "import sys, pathlib, tokenreduce.testing as t; t.write_clip(pathlib.Path(sys.argv[1]))"
    run("python", "-c", code, str(data / "clip.mp4"))
    row = {"id": "1", "video": "clip.mp4", "question": "is there a ring ?", "category": "any"}
    (data / "questions.jsonl").write_text(json.dumps({**row, "answer": "no"}))
    (tmp_path / "my.yaml").write_text(
        f"benchmark: {{use: my_questions, folder: {data}}}\n"
        "reducers: {my_reducer: {ratio: 0.75}, both: [{use: my_reducer}, {use: vas}]}\n"
    )
    document = json.loads(run("tokenreduce", "compare", str(tmp_path / "my.yaml")).splitlines()[-1])
    rows = {row["label"]: row for row in document["rows"]}
    assert list(rows) == ["keep_all", "my_reducer", "both"]
    assert all(row["failed"] == 0 and row["samples"] == 1 for row in rows.values())
    # A quarter of the tokens is left after layer round(0.25 * 14) - 1 = 3: the first 4 hold all.
    assert rows["my_reducer"]["img_memory"] == pytest.approx((4 + 10 / 4) / 14, abs=0.01)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_adapter_is_listed_and_passes_its_tests(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    made(run, tmp_path, "my-family", "--adapter")
    assert "[tokenreduce-my-family]" in run("tokenreduce", "list", "adapters")
