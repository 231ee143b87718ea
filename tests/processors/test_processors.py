"""What is prepared without torchvision equals what transformers prepares with it.

The comparison runs in an environment of its own: an installed torchvision that does not fit torch
breaks the imports of transformers.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from tests.adapters.family import families
from tests.torchvision_environment import ROOT, install_torchvision, with_torchvision

pytestmark = pytest.mark.slow

SMOLVLM = ("num2words==0.5.14", "docopt==0.6.2")  # its processor in transformers writes numbers out


def compared() -> list[str]:
    """Return the files of families that bring transformers' own processor."""
    names = sorted(path.stem for path in (ROOT / "tests" / "adapters" / "families").glob("*.py"))
    modules = {name: importlib.import_module(f"tests.adapters.families.{name}") for name in names}
    return [name for name, module in modules.items() if hasattr(module, "hf_inputs")]


@pytest.fixture(scope="module")
def torchvision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with torchvision and what else processors of transformers need."""
    folder = tmp_path_factory.mktemp("torchvision")
    install_torchvision(folder, SMOLVLM)
    return folder


@pytest.fixture(scope="module")
def found(torchvision: Path) -> dict[tuple[str, str], list[str]]:
    done = with_torchvision(torchvision, "-m", "tests.processors.compare", *compared())
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
