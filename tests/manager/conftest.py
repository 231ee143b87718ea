"""Real tiny distributions, laid out as an installer would, without one."""

import importlib
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent.parent / "fixtures" / "plugins"


def lay_out(name: str, site: Path) -> None:
    """Put the fixture distribution ``name`` into ``site``, as pip would."""
    project = tomllib.loads((FIXTURES / name / "pyproject.toml").read_text())["project"]
    for module in (FIXTURES / name / "src").glob("*.py"):
        shutil.copy(module, site)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    info.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    points = project["entry-points"]["tokenreduce"].items()
    lines = "".join(f"{key} = {value}\n" for key, value in points)
    info.joinpath("entry_points.txt").write_text(f"[tokenreduce]\n{lines}")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return an empty folder to lay distributions out in."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


@pytest.fixture
def install(site: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that makes fixture distributions importable in this process."""
    monkeypatch.syspath_prepend(site)
    for fixture in FIXTURES.iterdir():
        monkeypatch.delitem(sys.modules, f"tokenreduce_fixture_{fixture.name}", raising=False)

    def installed(*names: str) -> None:
        for name in names:
            lay_out(name, site)
        importlib.invalidate_caches()

    return installed
