"""The fixture distributions through a real installer: slow, because pip and hatchling are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "plugins"
SOURCES = [ROOT, ROOT / "plugins", ROOT / "model_adapters"]
REPORT = """
from tokenreduce.plugins import load_plugins
for record in load_plugins(warn=print).records:
    print(record.owner, record.status, *record.added)
"""


@pytest.mark.slow
def test_fixtures_installed_by_pip(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    folders = sorted(str(folder) for folder in FIXTURES.iterdir())
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    pip = [sys.executable, "-m", "pip", "install", *options, str(tmp_path), *folders]
    subprocess.run(pip, check=True)
    path = os.pathsep.join(map(str, [tmp_path, *SOURCES]))
    done = subprocess.run(
        [sys.executable, "-c", REPORT],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plugin 'good' (tokenreduce-fixture-good 0.4) loaded reducer good_reducer" in done.stdout
    for name in ("import-error", "wrong-signature", "misspelt-hook", "duplicate-name"):
        assert f"(tokenreduce-fixture-{name} 0.{len(name)}) failed" in done.stdout
    assert "the hook of hook_raises raised" in done.stdout
