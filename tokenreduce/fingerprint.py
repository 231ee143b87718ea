"""Fingerprints: what answers depend on besides the configuration, in a few short texts.

Of weight files the size and evenly spread blocks are read, so that 16 GB take seconds. A change of
single numbers between those blocks is not seen; new weights of the same shape are, since training
and converting change all of them. Code is known by its source files: what they import from other
distributions than torch, transformers, numpy and av is not looked at.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import tokenreduce
from tokenreduce.adapter import ModelAdapter
from tokenreduce.benchmark import Benchmark, Sample
from tokenreduce.cells import Cell, Setup, digest
from tokenreduce.reducer import Reducer

LIBRARIES = ("torch", "transformers", "numpy", "av")

REDUCER = "reducer "
"""What the names of entries begin with that belong to one reducer."""

WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth"})
CONFIGURATION = frozenset({".json", ".jinja", ".txt", ".model", ".yaml", ".yml", ".tiktoken"})

BLOCK = 1 << 16
WEIGHT_BLOCKS = 256
VIDEO_BLOCKS = 8

NO_ANSWERS = frozenset(
    {
        "__main__",
        "ablations",
        "bench",
        "config_schema",
        "console",
        "data",
        "engines",
        "export",
        "file_systems",
        "fingerprint",
        "ideal",
        "labels",
        "measure",
        "names",
        "overrides",
        "paper",
        "pictures",
        "problems",
        "report",
        "results",
        "results_file",
        "statistics",
        "store",
        "templates",
        "testing",
    }
)
"""Modules and packages of the core that only present, measure or keep what others answer."""

TRAINING = frozenset(
    {"card", "evaluate", "export", "lean", "losses", "optimiser", "recipe", "train"}
)
"""Modules that made the embedded model; its weights are looked at themselves."""

_KNOWN_OTHERWISE = sys.stdlib_module_names | {"tokenreduce", "pydantic"}
"""Packages whose classes are bases of plugins; the core is an entry of its own."""

_PACKAGES_OF_ONE_FILE_EACH = frozenset({"tokenreduce_plugins", "tokenreduce_model_adapters"})


def fingerprint(
    setup: Setup,
    reducers: Iterable[type[Reducer]],
    benchmark: type[Benchmark],
    adapter: type[ModelAdapter],
    directory: Path,
) -> dict[str, str]:
    """Return what the answers of a setup depend on besides its configuration.

    Parameters
    ----------
    setup
        Its ``device`` says where the model runs.
    reducers
        The classes of all its cells; :func:`of_cell` picks those of one.
    benchmark, adapter
        The classes that list its questions, and load its model.
    directory
        Of the checkpoint.

    Raises
    ------
    ConfigError
        If this machine does not have the device.
    """
    from tokenreduce.inference import pick_device

    return {
        "code": code_digest(),
        "benchmark": _digest_of_class(benchmark),
        "adapter": _digest_of_class(adapter),
        "weights": weights_digest(directory),
        "device": pick_device(setup.device).partition(":")[0],
        **{library: _version(library) for library in LIBRARIES},
        **{f"{REDUCER}{cls.name}": _digest_of_class(cls) for cls in reducers},
    }


def of_cell(whole: Mapping[str, str], cell: Cell) -> dict[str, str]:
    """Return the part of a setup's fingerprint that a cell's answers depend on.

    A reducer that is new or changed is no reason to ask again under the others.
    """
    own = {REDUCER + stage["use"] for stage in cell.reducers}
    return {
        name: text for name, text in whole.items() if not name.startswith(REDUCER) or name in own
    }


def code_digest() -> str:
    """Return a digest of those source files of the core that answers depend on."""
    return _digest_of_files(_core_files(), _core())


def weights_digest(directory: Path) -> str:
    """Return a digest of a checkpoint: configuration files whole, blocks of the weights."""
    found = hashlib.sha256()
    for file in sorted(directory.rglob("*")):
        inside = file.relative_to(directory)
        if any(part.startswith(".") for part in inside.parts) or not file.is_file():
            continue
        if file.suffix in WEIGHTS:
            found.update(f"{inside.as_posix()} {blocks_digest(file, WEIGHT_BLOCKS)}\n".encode())
        elif file.suffix in CONFIGURATION:
            found.update(f"{inside.as_posix()} {_digest_of(file)}\n".encode())
    return found.hexdigest()[:32]


def blocks_digest(file: Path, blocks: int) -> str:
    """Return a digest of a file's size and of ``blocks`` evenly spread blocks of 64 KiB.

    The first and the last are always among them; a file that is not larger is read whole.
    """
    size = file.stat().st_size
    found = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        if size <= blocks * BLOCK:
            found.update(stream.read())
        else:
            for number in range(blocks):
                stream.seek((size - BLOCK) * number // (blocks - 1))
                found.update(stream.read(BLOCK))
    return found.hexdigest()[:32]


def sample_digest(sample: Sample) -> str:
    """Return what tells a question from another one under the same id, or about another file.

    The file is known by its name, its size and a few blocks; one that cannot be read by its name.
    """
    asked = {each.name: getattr(sample, each.name) for each in fields(sample)}
    file = asked.pop("video")
    del asked["id"]
    try:
        content = blocks_digest(file, VIDEO_BLOCKS)
    except OSError:
        content = ""
    return digest({**asked, "file": file.name, "content": content})


def _core() -> Path:
    return Path(inspect.getfile(tokenreduce)).parent


def _core_files() -> Iterator[Path]:
    for file in _core().rglob("*.py"):
        parts = file.relative_to(_core()).with_suffix("").parts
        training = parts[0] == "embedded" and parts[-1] in TRAINING
        if parts[0] not in NO_ANSWERS and not parts[0].startswith("cli") and not training:
            yield file


def _digest_of_class(cls: type) -> str:
    """Return a digest of a class's own file, and of the package it is part of.

    A class whose source cannot be read, such as one from a prompt, is known by its name.
    """
    files = {file for base in cls.__mro__ for file in _files_of(base)}
    if not files:
        return digest([cls.__module__, cls.__qualname__])
    return _digest_of_files(files)


def _files_of(cls: type) -> Iterator[Path]:
    top = cls.__module__.partition(".")[0]
    if top in _KNOWN_OTHERWISE:
        return
    package = sys.modules.get(top)
    folder = getattr(package, "__file__", None)
    if (
        folder is not None
        and hasattr(package, "__path__")
        and top not in _PACKAGES_OF_ONE_FILE_EACH
    ):
        yield from Path(folder).parent.rglob("*.py")
    elif (file := getattr(sys.modules.get(cls.__module__), "__file__", None)) is not None:
        yield Path(file)


def _digest_of_files(files: Iterable[Path], root: Path | None = None) -> str:
    found = hashlib.sha256()
    for file in sorted(files):
        name = file.name if root is None else file.relative_to(root).as_posix()
        found.update(f"{name} {_digest_of(file)}\n".encode())
    return found.hexdigest()[:32]


def _digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""
