"""Makes an environment with lmms-eval: ``python -m tests.lmms.environment FOLDER``.

It is one of its own, as constraints-lmms.txt says why. torchvision, which lmms-eval requires, is
removed: the published build does not load beside a torch for the CPU, and transformers then breaks.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What pip says where it reaches no registry; another failure is a failure.
UNREACHABLE = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "Temporary failure in name resolution",
    "ProxyError",
)


class NoRegistryError(Exception):
    """The registry of packages cannot be reached."""


def make_environment(folder: Path) -> Path:
    """Return the folder of the programs of a new environment.

    Raises
    ------
    NoRegistryError
        If nothing can be installed here.
    """
    venv.create(folder, with_pip=True)
    programs = folder / "bin"
    pip(programs, "install", "-c", str(ROOT / "constraints-lmms.txt"), "-e", f"{ROOT}[lmms]")
    pip(programs, "uninstall", "--yes", "torchvision")
    return programs


def pip(programs: Path, *arguments: str) -> None:
    """Run pip of an environment."""
    command = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stdout + done.stderr
        if any(sign in said for sign in UNREACHABLE):
            raise NoRegistryError(done.stderr.strip().splitlines()[-1])
        raise RuntimeError(said)


if __name__ == "__main__":
    print(make_environment(Path(sys.argv[1])))
