"""Flat weights with AdamW, and checkpoints of a training run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.98)
EPSILON = 1e-8
DECAY = 0.05
CLIP = 1.0

Row = dict[str, float | str]


class Weights:
    """Flat float32 master weights with AdamW state, and a working copy with gradients.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Starting weights by name.
    dtype : torch.dtype
        Of the working copy: bfloat16 halves the time on CPUs that have it.

    Attributes
    ----------
    live : dict of str to Tensor
        The working copy by name; gradients accumulate in `slope`.
    """

    def __init__(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> None:
        self.names = [name for name, t in tensors.items() if t.is_floating_point()]
        self.shapes = [tensors[name].shape for name in self.names]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.dtype = dtype
        self.master = torch.cat([tensors[n].detach().reshape(-1).float() for n in self.names])
        self.first = torch.zeros_like(self.master)
        self.second = torch.zeros_like(self.master)
        self.work = self.master.to(dtype)
        self.slope = torch.zeros_like(self.work)
        self.live: dict[str, Tensor] = {}
        pieces = zip(
            torch.split(self.work, self.sizes), torch.split(self.slope, self.sizes), strict=True
        )
        for name, shape, (piece, slope) in zip(self.names, self.shapes, pieces, strict=True):
            leaf = piece.view(shape).detach().requires_grad_()
            leaf.grad = slope.view(shape)
            self.live[name] = leaf
        self.decay = self._mask(lambda name, shape: len(shape) > 1 and "embed" not in name)
        vision = ("vision_tower", "projector", "embed_tokens")
        self.vision = self._mask(lambda name, shape: any(part in name for part in vision))

    def _mask(self, chosen: Callable[[str, torch.Size], bool]) -> Tensor:
        """Ones where a weight is chosen, flat."""
        named = zip(self.names, self.shapes, self.sizes, strict=True)
        return torch.cat([torch.full((size,), float(chosen(n, s))) for n, s, size in named])

    def tensors(self) -> dict[str, Tensor]:
        """Return the float32 weights by name."""
        parts = zip(self.names, self.shapes, torch.split(self.master, self.sizes), strict=True)
        return {name: part.view(shape).clone() for name, shape, part in parts}

    def forget(self) -> None:
        """Clear the optimiser's moments."""
        self.first.zero_()
        self.second.zero_()

    @torch.no_grad()
    def update(self, gradient: Tensor, rate: float, step: int, vision_only: bool) -> None:
        """Take one clipped AdamW step.

        Parameters
        ----------
        gradient : Tensor
            Float32, flat; overwritten.
        rate : float
            Learning rate.
        step : int
            Counts from 1 since the moments were cleared.
        vision_only : bool
            Change tower, projector and word embeddings only.
        """
        if vision_only:
            gradient = gradient * self.vision
        norm = gradient.norm()
        gradient.mul_(torch.clamp(CLIP / (norm + 1e-6), max=1.0))
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        scale = (self.second / (1 - BETAS[1] ** step)).sqrt_().add_(EPSILON)
        change = self.first / scale / (1 - BETAS[0] ** step)
        change.addcmul_(self.decay, self.master, value=DECAY)
        if vision_only:
            change.mul_(self.vision)
        self.master.sub_(change, alpha=rate)
        self.work.copy_(self.master)


@dataclass
class Progress:
    """Where a run stands: what a checkpoint holds beside the weights.

    Attributes
    ----------
    stage, step : int
        The next step to take.
    updates : int
        Steps since the optimiser's moments were cleared.
    seconds : float
        Time spent, over all pieces of a run that was stopped.
    curve : list of dict
        One row per logging interval.
    """

    stage: int = 0
    step: int = 0
    updates: int = 0
    seconds: float = 0.0
    curve: list[Row] = field(default_factory=list)


def save(path: Path, weights: Weights, at: Progress, settings: dict[str, Any]) -> None:
    """Write a checkpoint atomically; `settings` are what a run must not change on the way."""
    temporary = path.with_suffix(".tmp")
    state = {name: getattr(weights, name) for name in ("master", "first", "second")}
    torch.save({"settings": settings, "progress": vars(at), **state}, temporary)
    temporary.replace(path)


def load(path: Path, weights: Weights, settings: dict[str, Any]) -> Progress:
    """Read a checkpoint into `weights`.

    Raises
    ------
    SystemExit
        If it belongs to a run with other settings.
    """
    stored = torch.load(path, weights_only=True)
    if stored["settings"] != settings:
        raise SystemExit(
            f"{path} holds a run with {stored['settings']}, not {settings}: "
            "give another --out, or --restart to begin anew."
        )
    for name in ("master", "first", "second"):
        getattr(weights, name).copy_(stored[name])
    weights.work.copy_(weights.master)
    return Progress(**stored["progress"])
