"""Bring published weights under the names of a model, and refuse any that do not fit.

A checkpoint's tensors are kept as callables until the model takes them, so that renaming, merging
and splitting cost no memory, and at most one tensor more than the model's own is held.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tokenreduce.errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor, nn

Weights = Mapping[str, "Callable[[], Tensor]"]
"""By name, what reads the tensor."""

Rules = Sequence[tuple[str, str]]
"""``(pattern, replacement)`` of :func:`re.sub`; all are applied to a name, in order."""

Held = TypeVar("Held")

COMPUTED = (r"rotary_emb\.inv_freq$", r"embeddings\.position_ids$")
"""Tensors that older checkpoints hold and today's models compute: patterns of names to pass over.
"""

_LORA = re.compile(r"\.lora_([AB])\.default\.weight$")
_BASE = ".base_layer."


def read_weights(directory: Path) -> dict[str, Callable[[], Tensor]]:
    """List the tensors of a directory's ``.safetensors`` files or, without any, its ``.bin`` files.

    Raises
    ------
    AdapterError
        If there are no weights, a shard that the index names is missing, or a file is broken.
    """
    for suffix, read in ((".safetensors", _read_safetensors), (".bin", _read_bin)):
        files = _files(directory, suffix)
        if files:
            weights: dict[str, Callable[[], Tensor]] = {}
            for file in files:
                weights |= _opened(file, read)
            return weights
    raise AdapterError(f"{directory}: there are no weights: no .safetensors and no .bin file.")


def rename(weights: Mapping[str, Held], rules: Rules) -> dict[str, Held]:
    r"""Return the tensors under other names.

    Parameters
    ----------
    weights
        By old name.
    rules
        From old names to new ones.

    Raises
    ------
    AdapterError
        If two tensors end up with one name.

    Examples
    --------
    >>> list(rename({"model.norm.weight": None}, [(r"^model\.", "language_model.")]))
    ['language_model.norm.weight']
    """
    renamed: dict[str, Held] = {}
    origin: dict[str, str] = {}
    for old, tensor in weights.items():
        name = _renamed(old, rules)
        if name in renamed:
            raise AdapterError(
                f"the weights hold both '{origin[name]}' and '{old}', which are the same tensor "
                f"'{name}' of the model: is the checkpoint a mixture of two?"
            )
        renamed[name], origin[name] = tensor, old
    return renamed


def merge_lora(weights: Weights, alpha: float) -> dict[str, Callable[[], Tensor]]:
    """Return the tensors with every low-rank update added to its matrix.

    ``W + alpha / r * B @ A``, in float32, for the names that PEFT writes:
    ``base_layer.weight``, ``lora_A.default.weight`` ``[r, in]``, ``lora_B.default.weight``
    ``[out, r]``.

    Parameters
    ----------
    weights
        Of a model that was saved with its updates apart.
    alpha
        Strength of the updates, in units of their rank.

    Raises
    ------
    AdapterError
        If one of the three tensors of an update is missing.
    """
    merged = {
        name.replace(_BASE, "."): tensor
        for name, tensor in weights.items()
        if not _LORA.search(name)
    }
    for module in dict.fromkeys(_LORA.sub("", name) for name in weights if _LORA.search(name)):
        parts = [f"{module}.lora_A.default.weight", f"{module}.lora_B.default.weight"]
        parts.append(f"{module}{_BASE}weight")
        if absent := [name for name in parts if name not in weights]:
            raise AdapterError(f"the weights lack '{absent[0]}', without which no update is whole.")
        a, b, base = (weights[name] for name in parts)
        merged[f"{module}.weight"] = partial(_merged, base, a, b, alpha, module)
    return merged


def split(weights: Weights, pattern: str, parts: Sequence[str]) -> dict[str, Callable[[], Tensor]]:
    r"""Return the tensors with every fused one cut along its first dimension into equal parts.

    Parameters
    ----------
    weights
        By name.
    pattern
        Of the fused tensors' names.
    parts
        What replaces the pattern in the names of the parts, in order.

    Examples
    --------
    >>> list(split({"attn.qkv.weight": None}, r"qkv", ["q", "k", "v"]))
    ['attn.q.weight', 'attn.k.weight', 'attn.v.weight']
    """
    whole = {name: tensor for name, tensor in weights.items() if not re.search(pattern, name)}
    for name in weights.keys() - whole.keys():
        for number, part in enumerate(parts):
            cut = partial(_part, weights[name], number, len(parts), name)
            whole[re.sub(pattern, part, name)] = cut
    return whole


def load_weights(
    model: nn.Module,
    weights: Weights,
    where: Path,
    *,
    rules: Rules = (),
    published: Rules = (),
    allowed: Sequence[str] = COMPUTED,
) -> None:
    """Copy tensors into a model: every one of the model's, and no other.

    Parameters
    ----------
    model
        With its parameters allocated.
    weights
        By the checkpoint's names.
    where
        The checkpoint, for messages.
    rules
        From the checkpoint's names to the model's.
    published
        From the model's names back to the checkpoint's: what a missing tensor is called.
    allowed
        Patterns of names that the checkpoint may hold beyond the model's.

    Raises
    ------
    AdapterError
        If a tensor is missing, unexpected, or of another shape; each is named as the checkpoint
        names it.
    """
    import torch

    own = model.state_dict()
    stored = rename({name: name for name in weights}, rules)  # by the model's name
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    missing = [name for name in own.keys() - stored.keys() if tied.get(name) not in stored]
    lacking = {_renamed(name, published) for name in missing}
    _require_none(lacking, where, "the weights lack {} of the model's tensors")
    unexpected = {
        stored[name]
        for name in stored.keys() - own.keys()
        if not any(re.search(pattern, stored[name]) for pattern in allowed)
    }
    _require_none(unexpected, where, "the weights hold {} tensors that the model does not have")
    with torch.no_grad():
        for name in own.keys() & stored.keys():
            tensor = weights[stored[name]]()
            if tensor.shape != own[name].shape:
                raise AdapterError(
                    f"{where}: '{stored[name]}' is {list(tensor.shape)} in the weights and "
                    f"{list(own[name].shape)} in the model that the configuration describes."
                )
            own[name].copy_(tensor)


def _renamed(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _require_none(names: Collection[str], where: Path, what: str) -> None:
    if names:
        raise AdapterError(
            f"{where}: {what.format(len(names))}, the first is '{min(names)}'; a model with parts "
            "that do not fit would answer nonsense."
        )


def _files(directory: Path, suffix: str) -> list[Path]:
    """Return the shards that the index names, or all files with this suffix."""
    indices = sorted(directory.glob(f"*{suffix}.index.json"))
    if not indices:
        return sorted(directory.glob(f"*{suffix}"))
    try:
        shards = set(json.loads(indices[0].read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{indices[0]}: no index of weights: {error!r}.") from error
    files = [directory / name for name in sorted(shards)]
    if absent := [file.name for file in files if not file.is_file()]:
        raise AdapterError(
            f"{directory}: '{absent[0]}' is missing, one of {len(files)} files that "
            f"'{indices[0].name}' names: download it again."
        )
    return files


def _opened(
    file: Path, read: Callable[[Path], dict[str, Callable[[], Tensor]]]
) -> dict[str, Callable[[], Tensor]]:
    from pickle import UnpicklingError

    from safetensors import SafetensorError

    try:
        return read(file)
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, EOFError) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdapterError(
            f"{file}: no weights can be read ({said}): download it again."
        ) from error


def _read_safetensors(file: Path) -> dict[str, Callable[[], Tensor]]:
    from safetensors import safe_open

    opened: Any = safe_open(file, framework="pt")
    return {name: partial(opened.get_tensor, name) for name in opened.keys()}  # noqa: SIM118


def _read_bin(file: Path) -> dict[str, Callable[[], Tensor]]:
    import torch

    tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    return {name: partial(_given, tensor) for name, tensor in tensors.items()}


def _given(tensor: Tensor) -> Tensor:
    return tensor


def _merged(
    base: Callable[[], Tensor],
    a: Callable[[], Tensor],
    b: Callable[[], Tensor],
    alpha: float,
    module: str,
) -> Tensor:
    matrix, down, up = base().float(), a().float(), b().float()
    rank = down.shape[0]
    if (*up.shape, *down.shape) != (matrix.shape[0], rank, rank, matrix.shape[-1]):
        raise AdapterError(
            f"'{module}' is {list(matrix.shape)}, and its update is {list(up.shape)} times "
            f"{list(down.shape)}, which does not fit: is the checkpoint a mixture of two?"
        )
    return matrix + alpha / rank * (up @ down)


def _part(whole: Callable[[], Tensor], number: int, parts: int, name: str) -> Tensor:
    tensor = whole()
    if tensor.shape[0] % parts:
        raise AdapterError(
            f"'{name}' has {tensor.shape[0]} rows, which are not {parts} equal parts."
        )
    return tensor.chunk(parts)[number]
