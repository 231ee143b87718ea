"""A folder with torchvision, for processes of their own: this environment has none on purpose.

An installed torchvision that does not fit torch breaks the imports of transformers.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
TORCHVISION = "torchvision==0.28.0"  # the release for torch 2.13
UNREACHABLE = ("Could not find a version", "No matching distribution", "Connection")

OPERATORS: list[Any] = []  # registered for as long as they are here


def import_torchvision() -> None:
    """Import torchvision beside a CPU build of torch, in which its own operators are not there.

    Without their names it cannot even be imported; processors use none of them.
    """
    import torch

    OPERATORS.append(torch.library.Library("torchvision", "DEF"))
    for name in ("nms", "qnms"):
        OPERATORS[-1].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")


def install_torchvision(folder: Path, also: Iterable[str] = ()) -> None:
    """Install torchvision into a folder; skips the test where the registry cannot be reached."""
    command = ["pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", *command, TORCHVISION, *also], capture_output=True, text=True
    )
    if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
        pytest.skip(f"{TORCHVISION} cannot be had here: {done.stderr.splitlines()[-1]}")
    assert not done.returncode, done.stderr


def with_torchvision(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the folder and the checkout on its path."""
    paths = [str(folder), *(str(ROOT / part) for part in ("", "plugins", "model_adapters"))]
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
