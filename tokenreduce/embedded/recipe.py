"""The training recipe: initial weights, batches, losses, and the list of stages.

Changing anything here changes the weights; the shipped ones came from exactly these stages.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreduce.embedded import lean
from tokenreduce.embedded import questions as words
from tokenreduce.embedded.architecture import DIM, FRAME_TOKENS, LAYERS, build_model
from tokenreduce.embedded.clips import (
    DOMAIN_TRAINING,
    SIZE,
    Clips,
    Stream,
    make_clips,
)
from tokenreduce.embedded.losses import (
    ANSWER_LAYER,
    HOP_LAYER,
    NAMED_LAYER,
    READ_LAYER,
    TAP_SCALE,
    TIME_HEAD,
    seeing_loss,
    sightings,
    telling_loss,
    time_loss,
)
from tokenreduce.embedded.questions import IM_END, WORD_ID, Questions, ask

MAX_FRAMES = 64
END_WEIGHT = 0.1  # of the loss on <|im_end|>
EMBEDDING_STD = 0.25


@dataclass(frozen=True)
class Stage:
    """A part of the schedule.

    Attributes
    ----------
    name : str
    steps : int
        Optimiser steps.
    lengths : dict of int to (float, int)
        Frames per clip -> share of the steps, clips per step over both shards.
    peak, end : float
        Learning rate after warm-up and at the end of the stage (cosine in between).
    blind : float
        Share of batches with late fusion.
    see, tell : (float, float)
        Weight at the start and end of the stage of the auxiliary losses on visual tokens (at the
        projector; at the layer before reading) and on the word that names the asked shape.
    vision_only : bool
        Train tower, projector and word embeddings by the first auxiliary loss alone.
    """

    name: str
    steps: int
    lengths: dict[int, tuple[float, int]]
    peak: float
    end: float
    blind: float = 0.0
    see: tuple[float, float] = (0.0, 0.0)
    tell: tuple[float, float] = (0.0, 0.0)
    vision_only: bool = False
    warmup: int = 40

    def described(self) -> str:
        """Frames per clip, clips per step and share, for the model card."""
        parts = []
        for frames, (share, clips) in self.lengths.items():
            often = f" ({share:.0%})" if share < 1 else ""
            parts.append(f"{clips} x F = {frames}{often}")
        return ", ".join(parts)


STAGES = (
    Stage("vision", 1000, {1: (1.0, 48)}, 1.5e-3, 1.5e-4, see=(1.0, 1.0), vision_only=True),
    Stage(
        "single", 1000, {1: (1.0, 32)}, 1.0e-3, 1.0e-3, blind=1.0, see=(0.3, 0.3), tell=(0.3, 0.3)
    ),
    Stage("four", 800, {4: (1.0, 32)}, 1.0e-3, 1.0e-3, blind=0.8, see=(0.3, 0.3), tell=(0.3, 0.2)),
    Stage(
        "eight", 1100, {8: (1.0, 16)}, 1.0e-3, 1.0e-3, blind=0.7, see=(0.3, 0.1), tell=(0.2, 0.1)
    ),
    Stage(
        "sixteen",
        2700,
        {8: (0.2, 16), 16: (0.65, 16), 32: (0.1, 8), 64: (0.05, 4)},
        1.0e-3,
        2.0e-5,
        blind=0.5,
        see=(0.3, 0.0),
        tell=(0.1, 0.0),
    ),
)


@torch.no_grad()
def initial_weights(seed: int) -> dict[str, Tensor]:
    """Return float32 starting weights under their Hugging Face names (plus the time head).

    Attention is initialised mimetically from `READ_LAYER` on (queries close to keys, output close
    to the transpose of values), so that words start by reading what resembles them; the layers
    below start near the identity.
    """
    torch.manual_seed(seed)
    weights = {k: v.clone() for k, v in build_model().state_dict().items() if k != "lm_head.weight"}
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...] | torch.Size, std: float) -> Tensor:
        return torch.randn(shape, generator=generator) * std

    weights[lean.EMBEDDING] = normal(weights[lean.EMBEDDING].shape, EMBEDDING_STD)
    weights[lean.NEWLINE] = normal((DIM,), EMBEDDING_STD)
    for name in ("linear_1", "linear_2"):
        key = f"{lean.PROJECTOR}{name}.weight"
        weights[key] = normal(weights[key].shape, weights[key].shape[1] ** -0.5)
    weights[lean.DECODER + "norm.weight"].fill_(TAP_SCALE)
    for layer in range(LAYERS):
        name = f"{lean.DECODER}layers.{layer}."
        early = 0.1 if layer < READ_LAYER else 1.0
        shared = normal((DIM, DIM), 0.09)
        for key in ("q", "k"):
            weights[f"{name}self_attn.{key}_proj.weight"] = 0.7 * shared + 0.3 * normal(
                (DIM, DIM), 0.09
            )
        values, _ = torch.linalg.qr(normal((DIM, DIM), 1.0))
        weights[f"{name}self_attn.v_proj.weight"] = values.contiguous()
        weights[f"{name}self_attn.o_proj.weight"] = (0.3 * early * values.T).contiguous()
        for key in ("gate", "up", "down"):
            shape = weights[f"{name}mlp.{key}_proj.weight"].shape
            scale = 0.5 * (early if key == "down" else 1.0)
            weights[f"{name}mlp.{key}_proj.weight"] = normal(shape, scale * shape[1] ** -0.5)
        for key in "qkv":
            weights[f"{name}self_attn.{key}_proj.bias"].zero_()
    weights[TIME_HEAD] = normal((MAX_FRAMES, DIM), 0.1)
    return weights


@cache
def codec_filter() -> Tensor:
    """Return what enlarging 4 x and bicubic resizing back do to a line, [64, 64].

    Training frames go through it, so that the model sees what it will see through a file.
    """
    wide = torch.eye(SIZE).repeat_interleave(4, dim=1)[None, None]
    full = F.interpolate(
        wide.expand(1, 1, SIZE, 4 * SIZE), (SIZE, SIZE), mode="bicubic", antialias=True
    )
    return full[0, 0].T.contiguous()


def to_pixels(frames: Tensor, dtype: torch.dtype) -> Tensor:
    """Model input of clean frames: uint8 [n, 64, 64, 3] -> [n, 3, 64, 64] in [-1, 1]."""
    kernel = codec_filter()
    x = frames.permute(0, 3, 1, 2).float()
    x = (kernel @ x @ kernel.T).round().clamp(0, 255)
    return ((x - 127.5) / 127.5).to(dtype)


@dataclass(frozen=True)
class Batch:
    """Clips with their questions, and whether the text rows are blind below `READ_LAYER`."""

    clips: Clips
    questions: Questions
    blind: bool


def make_batch(stage: Stage, index: int, step: int, shard: int, shards: int, seed: int) -> Batch:
    """Return the batch of one shard: a pure function of its arguments."""
    common = Stream(DOMAIN_TRAINING, seed, index, step)
    pick = int(common.below(1000, (1,))[0])
    for frames, (share, clips) in stage.lengths.items():  # noqa: B007 - the last one is the rest
        pick -= round(1000 * share)
        if pick < 0:
            break
    stream = Stream(DOMAIN_TRAINING, seed, index, step, 1 + shard)
    blind = int(stream.below(1000, (1,))[0]) < round(1000 * stage.blind)
    made = make_clips(clips // shards, frames, stream)
    plan = words.PLAN_SINGLE if frames == 1 else words.PLAN_VIDEO
    return Batch(made, ask(made, stream, plan), blind)


def _between(ends: tuple[float, float], progress: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * progress


def learning_rate(stage: Stage, step: int, steps: int) -> float:
    """Linear warm-up, then cosine from the stage's peak to its end."""
    progress = step / max(1, steps)
    cosine = stage.end + (stage.peak - stage.end) * 0.5 * (1 + math.cos(math.pi * progress))
    return cosine * min(1.0, (step + 1) / stage.warmup)


def loss_and_hits(
    w: lean.Weights, stage: Stage, batch: Batch, progress: float, dtype: torch.dtype
) -> tuple[Tensor, dict[str, tuple[float, float]]]:
    """Return the loss of a batch and, per category, (right answers, questions).

    `progress` in [0, 1] is the position in the stage.
    """
    clips, asked = batch.clips, batch.questions
    n, frames = clips.count, clips.frames
    pixels = to_pixels(torch.from_numpy(clips.pixels).flatten(0, 1), dtype)
    tokens = lean.vision(w, pixels).view(n, frames * FRAME_TOKENS, DIM)
    seen = sightings(clips)
    loss = torch.zeros(())
    hits: dict[str, tuple[float, float]] = {}
    see = _between(stage.see, progress)
    if see > 0:
        extra, right = seeing_loss(w, tokens, seen)
        loss = loss + see * extra
        hits |= {k: (v, 1.0) for k, v in right.items()}
    if stage.vision_only:
        return loss, hits
    ids = torch.from_numpy(asked.tokens)
    last = READ_LAYER - 1
    hidden, taps, looks = lean.decode(
        w,
        lean.prefix(w, tokens),
        ids,
        blind_below=READ_LAYER if batch.blind else 0,
        tap=(last, NAMED_LAYER, ANSWER_LAYER),
        look=(HOP_LAYER,),
    )
    if see > 0 and frames > 1:
        extra, right = time_loss(w, taps[last], clips, seen)
        loss = loss + see * extra
        hits |= {k: (v, 1.0) for k, v in right.items()}
    at = torch.from_numpy(asked.answer_at)
    b, q = torch.nonzero(torch.from_numpy(asked.valid), as_tuple=True)
    answers = ids[b, q, at[b, q]]
    scores = lean.logits(w, hidden[b, q, at[b, q] - 1]).float()
    ends = lean.logits(w, hidden[b, q, at[b, q]]).float()
    stop = torch.full_like(answers, WORD_ID[IM_END])
    loss = loss + F.cross_entropy(scores, answers) + END_WEIGHT * F.cross_entropy(ends, stop)
    tell = _between(stage.tell, progress)
    if tell > 0:
        extra, right = telling_loss(w, clips, asked, taps, looks[HOP_LAYER])
        loss = loss + tell * extra
        hits |= {k: (v, 1.0) for k, v in right.items()}
    good = (scores.argmax(-1) == answers).float()
    for column, category in enumerate(asked.categories):
        mine = q == column
        old = hits.get(category, (0.0, 0.0))
        hits[category] = (old[0] + float(good[mine].sum()), old[1] + float(mine.sum()))
    return loss, hits
