"""Auxiliary losses: what visual tokens and the words of a question should know, and by which layer.

They share the word embeddings with the model, so that what they teach is in the words' own space.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenreduce.embedded import lean
from tokenreduce.embedded import questions as words
from tokenreduce.embedded.architecture import DIM, FRAME_TOKENS, HEADS
from tokenreduce.embedded.clips import CELLS, SIZE, Bools, Clips, Ints, frame_colour
from tokenreduce.embedded.questions import PREFIX, Questions

#: Text rows do not see the video below this layer in late-fusion batches.
READ_LAYER = 6
#: Layers after which the word that names a shape should know about it, look at the evidence of a
#: question in two steps, and know its answer.
NAMED_LAYER, HOP_LAYER, ANSWER_LAYER = READ_LAYER + 1, READ_LAYER + 3, READ_LAYER + 4
TIME_HEAD = "auxiliary.time"  # thrown away after training
TAP_SCALE = 0.3  # brings normalised hidden states to the norm of the word embeddings

Hits = dict[str, float]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sightings:
    """Every visible object: its clip, video token, frame and words."""

    clip: Tensor
    token: Tensor
    frame: Tensor
    role: Tensor
    shape: Tensor
    colour: Tensor
    quadrant: Tensor


def sightings(clips: Clips) -> Sightings:
    """List what is visible in every frame of every clip."""
    b, role, f = np.nonzero(clips.visible)
    cx, cy = clips.cx[b, role, f], clips.cy[b, role, f]
    cell = cy * CELLS // SIZE * CELLS + cx * CELLS // SIZE
    columns = (
        b,
        f * FRAME_TOKENS + cell,
        f,
        role,
        clips.shape[b, role],
        frame_colour(clips)[b, role, f],
        words.quadrant_of(cx, cy),
    )
    return Sightings(*(torch.from_numpy(c) for c in columns))


def _word_loss(w: lean.Weights, hidden: Tensor, group: Ints, target: Tensor) -> Tensor:
    """Cross-entropy of hidden states against the embeddings of a group of words."""
    scores = F.linear(hidden, w[lean.EMBEDDING][torch.from_numpy(group)])
    return F.cross_entropy(scores.float(), target)


def seeing_loss(w: lean.Weights, tokens: Tensor, seen: Sightings) -> tuple[Tensor, Hits]:
    """Shape, colour and quadrant words as targets of the projected token of an object's cell."""
    hidden = tokens[seen.clip, seen.token]
    scores = F.linear(hidden, w[lean.EMBEDDING]).float()
    total = torch.zeros(())
    hits = Hits()
    groups = (
        ("shape", words.SHAPE_IDS, seen.shape),
        ("colour", words.COLOUR_IDS, seen.colour),
        ("quadrant", words.QUADRANT_IDS, seen.quadrant),
    )
    for name, group, target in groups:
        part = scores[:, torch.from_numpy(group)]
        total = total + F.cross_entropy(part, target)
        hits["see_" + name] = float((part.argmax(-1) == target).float().mean())
    return total, hits


def time_loss(
    w: lean.Weights, hidden: Tensor, clips: Clips, seen: Sightings
) -> tuple[Tensor, Hits]:
    """Motion, ordinal and time words as targets just before the words start to read."""
    x = F.rms_norm(hidden[seen.clip, len(PREFIX) + seen.token], (DIM,)) * TAP_SCALE
    clip, frame, role = seen.clip.numpy(), seen.frame.numpy(), seen.role.numpy()
    first = clips.visible.argmax(axis=2)[clip, role]
    moving = np.nonzero((role < 2) & (frame > first))[0]
    total = F.cross_entropy(F.linear(x, w[TIME_HEAD][: clips.frames]).float(), seen.frame)
    hits = Hits()
    direction = torch.from_numpy(clips.direction[clip[moving], role[moving]])
    counted = np.nonzero(role == 7)[0]
    ordinal = (clips.counted_frame[clip[counted]] < frame[counted, None]).sum(1)
    third, clear = words.when_of(frame, clips.frames)
    sure = np.nonzero(clear & (role >= 4))[0]
    for name, rows, group, target in (
        ("motion", moving, words.DIRECTION_IDS, direction),
        ("ordinal", counted, words.COUNT_IDS, torch.from_numpy(ordinal)),
        ("when", sure, words.WHEN_IDS, torch.from_numpy(third[sure])),
    ):
        if len(rows):
            part = F.linear(
                x[torch.from_numpy(rows)], w[lean.EMBEDDING][torch.from_numpy(group)]
            ).float()
            total = total + F.cross_entropy(part, target)
            hits["see_" + name] = float((part.argmax(-1) == target).float().mean())
    return total, hits


def _rows(
    hidden: Tensor, questions: Questions, frames: int, chosen: Bools, at: Ints
) -> tuple[Tensor, tuple[Numbers, Numbers]]:
    """Normalised states at word `at` of the chosen questions, and which questions these are."""
    b, q = np.nonzero(chosen)
    row = prefix_length(frames) + q * questions.tokens.shape[2] + at[b, q]
    x = hidden[torch.from_numpy(b), torch.from_numpy(row)]
    return F.rms_norm(x, (DIM,)) * TAP_SCALE, (b, q)


def prefix_length(frames: int) -> int:
    """Tokens before the questions: system words, video tokens, newline."""
    return len(PREFIX) + frames * FRAME_TOKENS + 1


def telling_loss(
    w: lean.Weights, clips: Clips, asked: Questions, taps: dict[int, Tensor], look: Tensor
) -> tuple[Tensor, Hits]:
    """Teach the words that name shapes what to have read by which layer.

    By `NAMED_LAYER`: the shape's colour and, for needles, its frame. By `ANSWER_LAYER`: the answer,
    where the question takes two steps. Without this the two-hop question was at 0.14 after 800
    steps on single frames; with it, at 0.63 after 225.
    """
    frames = clips.frames
    x, where = _rows(taps[NAMED_LAYER], asked, frames, asked.subject_colour >= 0, asked.subject_at)
    target = torch.from_numpy(asked.subject_colour[where] - words.COLOUR_IDS[0])
    total = _word_loss(w, x, words.COLOUR_IDS, target)
    if frames > 1:
        named = (
            (asked.subject_frame, asked.subject_at),
            (asked.other_frame, asked.other_at),
        )
        for frame, at in named:
            x, where = _rows(taps[NAMED_LAYER], asked, frames, frame >= 0, at)
            scores = F.linear(x, w[TIME_HEAD][:frames]).float()
            total = total + 0.5 * F.cross_entropy(scores, torch.from_numpy(frame[where]))
    # order: the second shape's word should know the answer; counted: so should the shape's
    deep = ((asked.other_at >= 0, asked.other_at), (asked.evidence_role == 7, asked.subject_at))
    for chosen, at in deep:
        if chosen.any():
            x, where = _rows(taps[ANSWER_LAYER], asked, frames, chosen, at)
            scores = F.linear(x, w[lean.EMBEDDING]).float()
            target = torch.from_numpy(asked.answers[where])
            total = total + 0.5 * F.cross_entropy(scores, target)
    twin = (asked.evidence_role >= 0) & (asked.evidence_frame < 0)
    x, (b, q) = _rows(taps[ANSWER_LAYER], asked, frames, twin, asked.subject_at)
    target = torch.from_numpy(clips.shape[b, asked.evidence_role[b, q]])
    total = total + _word_loss(w, x, words.SHAPE_IDS, target)
    moment = (asked.evidence_role >= 0) & (asked.evidence_frame >= 0)
    hits = Hits()
    for name, chosen in (("hop", twin), ("hop_moment", moment)):
        if chosen.any():
            found = _looked_at(clips, asked, look, chosen)
            hits[name] = float(found.detach().mean())
            total = total - found.clamp_min(1e-4).log().mean()
    return total, hits


def _looked_at(clips: Clips, asked: Questions, look: Tensor, chosen: Bools) -> Tensor:
    """Attention mass on the evidence, mean over the first half of the heads, [chosen]."""
    b, q = np.nonzero(chosen)
    role, moment = asked.evidence_role[b, q], asked.evidence_frame[b, q]
    cell = clips.cy[b, role] * CELLS // SIZE * CELLS + clips.cx[b, role] * CELLS // SIZE
    frame = np.arange(clips.frames)
    there = clips.visible[b, role] & ((moment[:, None] < 0) | (frame == moment[:, None]))
    shows = (cell[..., None] == np.arange(FRAME_TOKENS)) & there[..., None]
    mask = torch.from_numpy(shows.reshape(len(b), -1))
    at = torch.from_numpy(asked.subject_at[b, q])
    video = slice(len(PREFIX), prefix_length(clips.frames) - 1)
    mass = look[torch.from_numpy(b), : HEADS // 2, torch.from_numpy(q), at, video]
    return (mass.float().mean(1) * mask).sum(-1)
