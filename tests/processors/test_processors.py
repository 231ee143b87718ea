"""What is prepared without torchvision equals what transformers prepares with it.

The comparison runs in an environment of its own: an installed torchvision that does not fit torch
breaks the imports of transformers.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.adapters.family import families

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TORCHVISION = "torchvision==0.28.0"  # the release for torch 2.13
SMOLVLM = ("num2words==0.5.14", "docopt==0.6.2")  # its processor in transformers writes numbers out
UNREACHABLE = ("Could not find a version", "No matching distribution", "Connection")


def compared() -> list[str]:
    """Return the files of families that bring transformers' own processor."""
    names = sorted(path.stem for path in (ROOT / "tests" / "adapters" / "families").glob("*.py"))
    modules = {name: importlib.import_module(f"tests.adapters.families.{name}") for name in names}
    return [name for name, module in modules.items() if hasattr(module, "hf_inputs")]


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with torchvision and what else processors of transformers need."""
    folder = tmp_path_factory.mktemp("torchvision")
    command = ["pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command, TORCHVISION, *SMOLVLM], capture_output=True, text=True
    )
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip(f"{TORCHVISION} cannot be had here: {done.stderr.splitlines()[-1]}")
    assert not done.returncode, done.stderr
    return folder


@pytest.fixture(scope="module")
def found(torchvision: Path) -> dict[tuple[str, str], list[str]]:
    paths = [str(torchvision), *(str(ROOT / part) for part in ("", "plugins", "model_adapters"))]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.processors.compare", *compared()],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert not done.returncode, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(line["family"], str(line["variant"])): line["differences"] for line in lines}


def test_this_environment_has_no_torchvision() -> None:
    with pytest.raises(ImportError):
        importlib.import_module("torchvision")


def test_every_family_with_video_is_compared() -> None:
    with_video = {case.adapter.name for case in families() if "video" in case.prompts}
    own = {"pllava", "longva", "vila"}  # not in transformers: compared with a plain reference
    modules = [importlib.import_module(f"tests.adapters.families.{name}") for name in compared()]
    seen = {case.adapter.name for module in modules for case in module.CASES}
    assert with_video - own <= seen


def test_ids_and_pixels_are_those_of_transformers(found: dict[tuple[str, str], list[str]]) -> None:
    assert {family for family, _ in found} == set(compared())
    assert {key: what for key, what in found.items() if what} == {}
    assert torch.__version__.startswith("2.13")  # another torch needs another torchvision above
