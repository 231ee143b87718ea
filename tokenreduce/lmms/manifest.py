"""What lmms-eval finds by the entry-point group ``lmms_eval.models``."""

from __future__ import annotations

from typing import Any

NAME = "tokenreduce"
"""Name of the model: ``lmms-eval eval --model tokenreduce``."""


def manifest() -> Any:
    """Return the ``ModelManifest`` of :class:`tokenreduce.lmms.model.TokenReduce`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id=NAME, chat_class_path="tokenreduce.lmms.model.TokenReduce")
