"""Load what transformers can load by itself, and refuse what it would only warn about."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from textwrap import shorten
from typing import Any

from tokenreduce.errors import AdapterError


def load_pretrained(model_class: str, directory: Path, *, dtype: str, device: str) -> Any:
    """Load a checkpoint directory into a class of transformers, in ``eval()`` mode.

    Parameters
    ----------
    model_class
        Name of the class, such as ``LlavaForConditionalGeneration``.
    directory
        Holds configuration and weights.
    dtype
        Name of a torch type.
    device
        Where the model goes; ``meta``: no weight is read, and nothing can be computed.

    Raises
    ------
    AdapterError
        If files are missing or broken, or a tensor of the model is not in the weights.
    """
    import torch
    import transformers

    if device == "meta":
        return _without_weights(getattr(transformers, model_class), directory)
    try:
        model, info = getattr(transformers, model_class).from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # a wrong configuration can end in any class of error
        raise AdapterError(f"{directory}: not loaded as a {model_class}: {said(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise AdapterError(
            f"{directory}: the weights lack {len(missing)} of the model's tensors, the first "
            f"is '{missing[0]}'; a model with random parts would answer nonsense."
        )
    return model.to(device).eval()


def _without_weights(model_class: Any, directory: Path) -> Any:
    import torch

    try:
        config = model_class.config_class.from_pretrained(directory, local_files_only=True)
        with torch.device("meta"):
            return model_class(config).eval()
    except Exception as error:  # a wrong configuration can end in any class of error
        name = model_class.__name__
        raise AdapterError(f"{directory}: it describes no {name}: {said(error)}") from error


def said(error: Exception) -> str:
    """Return what a library said, on one line."""
    return shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def read_json(file: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """Return the mapping in a file of a checkpoint.

    Raises
    ------
    AdapterError
        If it is missing, holds no JSON mapping, or lacks a key of ``needed``.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AdapterError(f"{file}: not readable as JSON ({reason}).") from error
    if not isinstance(values, dict):
        raise AdapterError(f"{file}: holds {type(values).__name__}, not a mapping of settings.")
    for name in needed:
        if name not in values:
            raise AdapterError(f"{file}: has no '{name}': is it the file of another model?")
    return values


def load_tokenizer(directory: Path, *, template: bool = True, model_type: str | None = None) -> Any:
    """Load the tokenizer of a checkpoint directory, with its chat template wherever that is kept.

    Parameters
    ----------
    directory
        Holds the tokenizer's files.
    template
        Whether a chat template is needed; families that write their prompts themselves have none.
    model_type
        Of the language model, where transformers does not know that of the checkpoint.

    Raises
    ------
    AdapterError
        If there is no tokenizer, or no chat template where one is needed.
    """
    from transformers import AutoConfig, AutoTokenizer

    config = None if model_type is None else AutoConfig.for_model(model_type)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, config=config, local_files_only=True)
    except Exception as error:  # what tokenizers raises of a broken file is of no narrower class
        raise AdapterError(f"{directory}: no tokenizer can be loaded: {said(error)}") from error
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        # Some classes of transformers are made without any file, and know no word then.
        raise AdapterError(
            f"{directory}: no tokenizer can be loaded: there is no vocabulary, such as in a "
            "tokenizer.json."
        )
    # Processors of earlier transformers kept the template in a file of their own.
    tokenizer.chat_template = tokenizer.chat_template or _template_of_processor(directory)
    if template and not tokenizer.chat_template:
        raise AdapterError(
            f"{directory}: there is no chat template, neither in the tokenizer's files nor in "
            "chat_template.jinja or chat_template.json: add the one that the model was trained "
            "with."
        )
    return tokenizer


def _template_of_processor(directory: Path) -> str | None:
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json"):
        file = directory / name
        if file.is_file() and (template := read_json(file).get("chat_template")):
            return str(template)
    return None
