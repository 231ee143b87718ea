"""An environment with real lmms-eval, made once for all slow tests that need it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lmms.environment import NoRegistryError, make_environment

READY = "LMMS_EVAL_ENVIRONMENT"
"""Environment variable: the folder of an environment that was made already, to save its making."""

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def lmms_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a function that runs a program of the environment, offline."""
    folder = tmp_path_factory.mktemp("lmms")
    ready = os.environ.get(READY)
    try:
        programs = Path(ready, "bin") if ready else make_environment(folder / "environment")
    except NoRegistryError as error:
        pytest.skip(f"lmms-eval cannot be installed here: {error}")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "OPENAI"))}
    variables |= {
        "HF_HOME": str(folder / "home"),
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # as in tests/conftest.py
    }

    def run(
        program: str, *arguments: str, cwd: Path = folder, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(programs / program), *arguments],
            cwd=cwd,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    return run
