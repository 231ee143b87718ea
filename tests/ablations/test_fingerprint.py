"""Fingerprints: what changes them, and what does not."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tokenreduce import fingerprint as fingerprints
from tokenreduce.benchmark import Sample
from tokenreduce.cells import Cell, Setup
from tokenreduce.fingerprint import (
    blocks_digest,
    fingerprint,
    of_cell,
    sample_digest,
    weights_digest,
)
from tokenreduce.plugins import load_plugins

SETUP = Setup("embedded", {"use": "embedded"}, device="cpu")
REGISTRY = load_plugins(entry_points=[]).registry

CODE = """
from tokenreduce.reducer import Reducer

class Mine(Reducer):
    name = "mine"

    def acts_after(self, num_layers):
        return ()

    def plan(self, view):
        return None
"""


def taken(directory: Path, *names: str, own: tuple[type[Any], ...] = ()) -> dict[str, str]:
    classes = [*(REGISTRY.reducer(name) for name in names), *own]
    benchmark, adapter = REGISTRY.benchmark("embedded"), REGISTRY.adapter("llava_onevision")
    return fingerprint(SETUP, classes, benchmark, adapter, directory)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "llm").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "README.md").write_text("read me")
    (folder / "llm" / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    return folder


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name,
        path,
        submodule_search_locations=[str(path.parent)] if path.stem == "__init__" else None,
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_it_names_code_libraries_weights_and_the_kind_of_device(checkpoint: Path) -> None:
    import torch

    found = taken(checkpoint, "vas", "fastv")
    assert set(found) == {
        "code",
        "benchmark",
        "adapter",
        "weights",
        "device",
        "torch",
        "transformers",
        "numpy",
        "av",
        "reducer vas",
        "reducer fastv",
    }
    assert found["device"] == "cpu"
    assert (
        found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    )
    assert found == taken(checkpoint, "vas", "fastv")
    assert found["reducer vas"] != found["reducer fastv"]


def test_a_cell_depends_on_its_own_reducers_only(checkpoint: Path) -> None:
    cell = Cell(SETUP, "both", "both", ({"use": "vas"}, {"use": "evs"}))
    part = of_cell(taken(checkpoint, "vas", "evs", "fastv"), cell)
    assert part == taken(checkpoint, "vas", "evs")
    assert cell.key(part) == cell.key(of_cell(taken(checkpoint, "evs", "tome", "vas"), cell))


def test_weights_and_configuration_change_it_and_a_read_me_does_not(checkpoint: Path) -> None:
    before = taken(checkpoint)
    (checkpoint / "README.md").write_text("read me again")
    (checkpoint / ".cache").mkdir()
    (checkpoint / ".cache" / "when.json").write_text("{}")
    assert taken(checkpoint) == before

    weights = checkpoint / "llm" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[700_000] ^= 1
    weights.write_bytes(data)
    after = taken(checkpoint)
    assert changed(before, after) == {"weights"}

    (checkpoint / "config.json").write_text('{"model_type": "y"}')
    assert changed(after, taken(checkpoint)) == {"weights"}


def test_the_same_files_under_other_names_are_other_weights(checkpoint: Path) -> None:
    before = weights_digest(checkpoint)
    shutil.copytree(checkpoint, checkpoint.parent / "copy")
    assert weights_digest(checkpoint.parent / "copy") == before
    (checkpoint / "config.json").rename(checkpoint / "other.json")
    assert weights_digest(checkpoint) != before


def test_of_a_large_file_the_blocks_at_even_places_are_read(tmp_path: Path) -> None:
    block = 1 << 16
    file = tmp_path / "big"
    data = bytearray(10 * block + 9)
    file.write_bytes(data)
    # Three blocks: at 0, in the middle of what is left, and at the very end.
    starts = [0, (9 * block + 9) // 2, 9 * block + 9]
    expected = hashlib.sha256(str(len(data)).encode())
    for start in starts:
        expected.update(bytes(data[start : start + block]))
    before = blocks_digest(file, 3)
    assert before == expected.hexdigest()[:32]
    for place in range(0, len(data), 7001):
        data[place] = 1
        file.write_bytes(data)
        seen = any(start <= place < start + block for start in starts)
        assert (blocks_digest(file, 3) != before) == seen
        data[place] = 0
    file.write_bytes(data + b"\0")
    assert blocks_digest(file, 3) != before


def test_the_core_counts_and_what_only_presents_does_not(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "tokenreduce"
    shutil.copytree(
        Path(fingerprints.__file__).parent, copy, ignore=shutil.ignore_patterns("model")
    )
    monkeypatch.setattr(fingerprints, "_core", lambda: copy)
    before = taken(checkpoint)

    def touch(*files: str) -> set[str]:
        for file in files:
            with (copy / file).open("a") as stream:
                stream.write("\n# a remark\n")
        return changed(before, taken(checkpoint))

    assert not touch(
        "cli.py",
        "cli_bench.py",
        "console.py",
        "testing/oracle.py",
        "bench/runner.py",
        "embedded/train.py",
        "ablations/grid.py",
    )
    for file in ("session.py", "video/decoding.py", "embedded/clips.py", "cost/prefill.py"):
        assert touch(file) == {"code"}
        before = taken(checkpoint)


def test_a_plugin_is_known_by_its_file(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "lone_reducer_plugin.py"
    file.write_text(CODE)
    before = taken(checkpoint, "vas", own=(load(file, "lone_reducer_plugin").Mine,))
    file.write_text(CODE + "# another\n")
    after = taken(checkpoint, "vas", own=(load(file, "lone_reducer_plugin").Mine,))
    assert changed(before, after) == {"reducer mine"}


def test_a_plugin_in_a_package_is_known_by_all_of_it(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "packaged_reducer_plugin"
    folder.mkdir()
    (folder / "__init__.py").write_text(CODE)
    (folder / "scores.py").write_text("WEIGHT = 1\n")
    own = (load(folder / "__init__.py", "packaged_reducer_plugin").Mine,)
    before = taken(checkpoint, own=own)
    (folder / "scores.py").write_text("WEIGHT = 2\n")
    assert changed(before, taken(checkpoint, own=own)) == {"reducer mine"}


def test_a_class_without_a_source_is_known_by_its_name(checkpoint: Path) -> None:
    scope: dict[str, Any] = {"__name__": "a_prompt"}
    exec(CODE, scope)
    assert taken(checkpoint, own=(scope["Mine"],)) == taken(checkpoint, own=(scope["Mine"],))


def test_a_question_is_its_words_and_its_file(tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"0" * 1000)
    sample = Sample("a", video, "What is it ?", "ring", "what", 8)
    known = sample_digest(sample)
    assert sample_digest(replace(sample, id="b")) == known
    moved = tmp_path / "elsewhere" / "clip.mp4"
    moved.parent.mkdir()
    shutil.copy(video, moved)
    assert sample_digest(replace(sample, video=moved)) == known
    others = [
        replace(sample, question="What is it?"),
        replace(sample, answer="disc"),
        replace(sample, category="which"),
        replace(sample, frames=16),
        replace(sample, start=1.0),
        replace(sample, video=tmp_path / "missing.mp4"),
    ]
    digests = [known, *map(sample_digest, others)]
    video.write_bytes(b"0" * 999 + b"1")
    digests.append(sample_digest(sample))
    assert len(set(digests)) == len(digests) == 8
