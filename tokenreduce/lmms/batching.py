"""Several prompts as one: left-padded words, videos one after the other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.inference import Loaded

Raw = Mapping[str, "Tensor"]
"""Inputs of one prompt as a processor makes them: everything begins with a batch of one, or with
the parts of one video."""


def layout_of(inputs: Raw) -> Hashable:
    """Return what must be equal for prompts to go into one batch: all sizes but the words'."""
    words = inputs["input_ids"].shape
    return tuple(
        (name, tuple(value.shape[1:]))
        for name, value in sorted(inputs.items())
        if value.shape != words
    ) + tuple(sorted(name for name, value in inputs.items() if value.shape == words))


def collate(inputs: Sequence[Raw], pad: int) -> dict[str, Tensor]:
    """Return the inputs of one forward for prompts of one layout.

    Parameters
    ----------
    inputs
        Of one prompt each: what has a value for each token is padded on the left, the rest is put
        one after the other, as models of transformers take the videos of a batch.
    pad
        Token id of padding; where ``attention_mask`` is 0, it is not seen.
    """
    import torch

    longest = max(each["input_ids"].shape[1] for each in inputs)
    batch: dict[str, Tensor] = {}
    for name in inputs[0]:
        if all(each[name].shape == each["input_ids"].shape for each in inputs):
            fill = pad if name == "input_ids" else 0
            batch[name] = torch.cat([_padded(each[name], longest, fill) for each in inputs])
        else:
            batch[name] = torch.cat([each[name] for each in inputs])
    return batch


def _padded(row: Tensor, length: int, fill: int) -> Tensor:
    from torch.nn.functional import pad

    return pad(row, (length - row.shape[1], 0), value=fill)


def encoded(loaded: Loaded, inputs: Sequence[Raw]) -> dict[str, Any]:
    """Return the inputs of ``generate`` for prompts of one layout, their videos encoded.

    Parameters
    ----------
    loaded
        The model.
    inputs
        Of one prompt each, from the model's processor.
    """
    import torch

    from tokenreduce.inference import placed

    with torch.no_grad():
        raw = placed(loaded, collate(inputs, pad_token(loaded)))
        return loaded.adapter.encode_video(loaded.model, raw)


def pad_token(loaded: Loaded) -> int:
    """Return the token id to pad with: any will do that stands for no video."""
    settings: Any = loaded.model.generation_config
    for found in (settings.pad_token_id, settings.eos_token_id):
        if isinstance(found, list | tuple):
            found = found[0] if found else None
        if found is not None:
            return int(found)
    return 0
