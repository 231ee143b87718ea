"""Load what transformers can load by itself, and refuse what it would only warn about."""

from __future__ import annotations

import json
from pathlib import Path
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
        Where the model goes.

    Raises
    ------
    AdapterError
        If files are missing or broken, or a tensor of the model is not in the weights.
    """
    import torch
    import transformers
    from safetensors import SafetensorError

    try:
        model, info = getattr(transformers, model_class).from_pretrained(
            directory,
            dtype=getattr(torch, dtype),
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        # A part that needs another package, such as timm, says so behind an empty line.
        said = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise AdapterError(f"{directory}: not loaded as a {model_class}: {said}") from error
    if missing := sorted(info["missing_keys"]):
        raise AdapterError(
            f"{directory}: the weights lack {len(missing)} of the model's tensors, the first "
            f"is '{missing[0]}'; a model with random parts would answer nonsense."
        )
    return model.to(device).eval()


def read_json(file: Path) -> dict[str, Any]:
    """Return the mapping in a file of a checkpoint.

    Raises
    ------
    AdapterError
        If it is missing, or holds no JSON mapping.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise AdapterError(f"{file}: not readable as JSON ({said}).") from error
    if not isinstance(values, dict):
        raise AdapterError(f"{file}: holds {type(values).__name__}, not a mapping of settings.")
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
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise AdapterError(f"{directory}: no tokenizer can be loaded: {said}") from error
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
        if file.is_file():
            template = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
            if template:
                return str(template)
    return None
