"""Which of the paper's models a checkpoint is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenreduce.config import EMBEDDED_MODEL
from tokenreduce.paper.published import DEPTHS

if TYPE_CHECKING:
    from tokenreduce.registry import Registry


def paper_model(name: str, registry: Registry) -> str | None:
    """Return which of the paper's models a checkpoint is by family and depth; None: none of them.

    No weight is read.

    Parameters
    ----------
    name
        ``embedded``, or the folder of the checkpoint.
    registry
        Where adapters are found.

    Raises
    ------
    ConfigError, AdapterError
        As :func:`tokenreduce.inference.load_model`.
    """
    if name == EMBEDDED_MODEL:
        return None
    from tokenreduce.inference import find_checkpoint, load_model

    _, adapter = find_checkpoint(name, registry.adapters)
    if adapter.name not in {family for family, _ in DEPTHS}:
        return None
    loaded = load_model(name, registry.adapters, dtype="float32", device="meta")
    layers = loaded.adapter.decoder_shape(loaded.model).layers
    return DEPTHS.get((adapter.name, layers))
