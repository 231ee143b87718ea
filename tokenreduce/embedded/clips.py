"""Synthetic clips: deterministic, integer-only, vectorised over a batch.

A clip is 64 x 64 px. Eight different shapes play roles: two *movers* (visible for up to 8
consecutive frames), two *statics* (always there), three *needles* (one frame each) and one
*counted* shape (1 to 4 appearances, a new colour each time); two more shapes are absent. The
background is a drifting grey texture with flickering dots in object colours and noise.

Only `PCG64.random_raw` and integer arithmetic are used, so a seed gives the same bytes on every
machine and numpy version.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Frames = npt.NDArray[np.uint8]

#: First word of every seed: the benchmark's clips come from another domain than training's.
DOMAIN_TRAINING, DOMAIN_BENCHMARK = 0, 1

SIZE = 64  # px, height and width of a frame
PATCH = 15  # px, the largest shape
SIZES = (11, 13, 15)  # px
ROLES = 8
CELLS = 4  # visual tokens per side of a frame
LOW, HIGH = PATCH // 2, SIZE - 1 - PATCH // 2  # allowed centres

PALETTE = np.array(
    [
        (220, 30, 30),  # red
        (240, 135, 20),  # orange
        (235, 225, 40),  # yellow
        (40, 170, 50),  # green
        (40, 210, 220),  # cyan
        (40, 60, 225),  # blue
        (215, 50, 210),  # magenta
        (240, 240, 240),  # white
    ],
    dtype=np.int16,
)
JITTER = 18  # grey levels, per object and channel
CLUTTER = 5  # dots per frame
MOVER_FRAMES = 8


class Stream:
    """Random integers from raw PCG64 output, stable across numpy versions.

    Parameters
    ----------
    *seed : int
        Any number of non-negative integers.
    """

    def __init__(self, *seed: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(seed))

    def raw(self, count: int) -> npt.NDArray[np.uint64]:
        """Return `count` raw 64-bit words."""
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64)

    def below(self, n: int | Ints, shape: tuple[int, ...]) -> Ints:
        """Integers in [0, n), of the given shape; `n` may be an array that broadcasts to it."""
        count = 1
        for side in shape:
            count *= side
        high = (self.raw(count) >> np.uint64(32)).reshape(shape)
        return ((high * np.asarray(n, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)

    def permutation(self, rows: int, n: int) -> Ints:
        """One permutation of range(n) per row, [rows, n]."""
        return np.argsort(self.raw(rows * n).reshape(rows, n), axis=1, kind="stable")


@dataclass(frozen=True)
class Clips:
    """Frames of a batch of clips and the record of what happens in them.

    Attributes
    ----------
    pixels : uint8 [clips, frames, 64, 64, 3]
    shape, colour : int64 [clips, 8]
        Indices into `questions.SHAPES` and `questions.COLOURS` per role: 0-1 movers, 2-3 statics,
        4-6 needles, 7 counted (whose colours are in `counted_colour`).
    visible : bool [clips, 8, frames]
    cx, cy : int64 [clips, 8, frames]
        Centres in px, meaningful where visible.
    direction : int64 [clips, 2]
        Of the movers: left, right, up, down.
    needle_frame : int64 [clips, 3]
    appearances : int64 [clips]
        How often the counted shape appears, 1 to 4.
    counted_frame, counted_colour : int64 [clips, 4]
        Meaningful for the first `appearances` entries, frames ascending.
    pairs : int64 [clips, 4]
        Roles (p0, p1, p2, p3): p0 and p1 share a colour that no other shape has, so do p2 and p3.
    absent : int64 [clips, 2]
        Shapes that do not occur.
    """

    pixels: Frames
    shape: Ints
    colour: Ints
    visible: Bools
    cx: Ints
    cy: Ints
    direction: Ints
    needle_frame: Ints
    appearances: Ints
    counted_frame: Ints
    counted_colour: Ints
    pairs: Ints
    absent: Ints

    @property
    def count(self) -> int:
        """Number of clips."""
        return int(self.pixels.shape[0])

    @property
    def frames(self) -> int:
        """Frames per clip."""
        return int(self.pixels.shape[1])


@cache
def stencils() -> Bools:
    """Masks of all shapes and sizes, bool [10, 3, 15, 15], centred."""
    out = np.zeros((10, len(SIZES), PATCH, PATCH), dtype=np.bool_)
    y, x = np.mgrid[:PATCH, :PATCH] - PATCH // 2
    ax, ay = np.abs(x), np.abs(y)
    for k, size in enumerate(SIZES):
        r = size // 2
        w = r // 3  # half width of strokes
        d2 = x * x + y * y
        square = (ax <= r) & (ay <= r)
        disc = d2 <= r * r + r // 2
        masks = (
            disc,
            square & (ax <= r - 1) & (ay <= r - 1),
            square & (2 * ax <= y + r),
            ax + ay <= r,
            disc & (d2 >= (r - 3) * (r - 3)),
            square & ((ax <= w) | (ay <= w)),
            square & (np.abs(ax - ay) <= w - 1 + r % 2),
            (ax <= r) & (ay <= w),
            (ax <= w) & (ay <= r),
            square & ((ax >= r - 1) | (ay >= r - 1)),
        )
        out[:, k] = np.stack(masks)
    return out


def _place(blocked: Bools, stream: Stream) -> tuple[Ints, Ints]:
    """Centres in free cells of a 4 x 4 grid; `blocked` is bool [rows, 16]."""
    rows = blocked.shape[0]
    keys = stream.below(1 << 20, (rows, 16)) + np.where(blocked, 1 << 21, 0)
    slot = np.argmin(keys, axis=1)
    jitter = stream.below(7, (2, rows)) - 3
    cx = np.clip(slot % 4 * 16 + 8 + jitter[0], LOW, HIGH)
    cy = np.clip(slot // 4 * 16 + 8 + jitter[1], LOW, HIGH)
    return cx, cy


def _near(cx: Ints, cy: Ints, visible: Bools) -> Bools:
    """Cells that objects touch: [rows, objects] -> bool [rows, 16]."""
    slot = np.arange(16)
    dx = np.abs(cx[..., None] - (slot % 4 * 16 + 8))
    dy = np.abs(cy[..., None] - (slot // 4 * 16 + 8))
    near: Bools = ((np.maximum(dx, dy) < 16) & visible[..., None]).any(axis=1)
    return near


def _movers(
    n: int, frames: int, stream: Stream, visible: Bools, cx: Ints, cy: Ints
) -> tuple[Ints, Bools]:
    """Fill roles 0 and 1; return directions [n, 2] and the cells of their lanes, bool [n, 16]."""
    direction = stream.below(4, (n, 2))
    lanes = stream.permutation(n, 4)[:, :2]
    longest = min(frames, MOVER_FRAMES)
    shortest = longest if frames < 8 else 5
    length = shortest + stream.below(longest - shortest + 1, (n, 2))
    start = stream.below(frames - length + 1, (n, 2))
    speed = 4 + stream.below(3, (n, 2))
    travel = (length - 1) * speed
    origin = LOW + stream.below(HIGH - LOW - travel + 1, (n, 2))
    cross = np.clip(lanes * 16 + 8 + stream.below(3, (n, 2)) - 1, LOW, HIGH)
    slot = np.arange(16)
    lane_cells = np.zeros((n, 16), dtype=np.bool_)
    for m in range(2):
        step = np.arange(frames) - start[:, m, None]
        visible[:, m] = (step >= 0) & (step < length[:, m, None])
        along = np.clip(origin[:, m, None] + step * speed[:, m, None], LOW, HIGH)
        backwards = (direction[:, m, None] == 0) | (direction[:, m, None] == 2)
        along = np.where(backwards, SIZE - 1 - along, along)
        across = np.broadcast_to(cross[:, m, None], along.shape)
        horizontal = direction[:, m, None] < 2
        cx[:, m] = np.where(horizontal, along, across)
        cy[:, m] = np.where(horizontal, across, along)
        lane_cells |= np.where(horizontal, slot // 4, slot % 4) == lanes[:, m, None]
    return direction, lane_cells


def make_clips(count: int, frames: int, stream: Stream) -> Clips:
    """Make `count` clips of `frames` frames.

    Parameters
    ----------
    count : int
        Clips in the batch.
    frames : int
        Frames per clip: 1 (everything in one frame) or at least 4.
    stream : Stream
        The only source of randomness.
    """
    n = count
    rows = np.arange(n)
    shapes = stream.permutation(n, 10)
    hues = stream.permutation(n, 8)
    pairs = stream.permutation(n, 7)
    colour = np.zeros((n, ROLES), dtype=np.int64)
    for at, hue in enumerate((0, 0, 1, 1, 2, 3, 4)):  # two pairs and three singles
        colour[rows, pairs[:, at]] = hues[:, hue]
    # the counted shape never wears the colour of a pair
    own = 2 + stream.permutation(n, 6)[:, :4]
    counted_colour = np.take_along_axis(hues, own, axis=1)
    colour[:, 7] = counted_colour[:, 0]

    visible = np.zeros((n, ROLES, frames), dtype=np.bool_)
    cx = np.full((n, ROLES, frames), 32, dtype=np.int64)
    cy = np.full((n, ROLES, frames), 32, dtype=np.int64)
    direction, lanes = _movers(n, frames, stream, visible, cx, cy)
    for role in (2, 3):
        blocked = lanes | _near(cx[:, 2:role, 0], cy[:, 2:role, 0], visible[:, 2:role, 0])
        x, y = _place(blocked, stream)
        cx[:, role], cy[:, role], visible[:, role] = x[:, None], y[:, None], True

    def show(role: int, frame: Ints, where: Bools) -> None:
        """Put `role` into one frame of the clips in `where`, away from what is there."""
        blocked = _near(cx[rows, :, frame], cy[rows, :, frame], visible[rows, :, frame])
        x, y = _place(blocked, stream)
        cx[rows[where], role, frame[where]] = x[where]
        cy[rows[where], role, frame[where]] = y[where]
        visible[rows[where], role, frame[where]] = True

    everywhere = np.ones(n, dtype=np.bool_)
    moments = stream.permutation(n, frames)
    needle_frame = moments[:, :3] if frames >= 3 else np.zeros((n, 3), dtype=np.int64)
    for k in range(3):
        show(4 + k, needle_frame[:, k], everywhere)
    most = min(4, frames)
    appearances = 1 + stream.below(most, (n,))
    chosen = stream.permutation(n, frames)[:, :most]
    chosen = np.where(np.arange(most) < appearances[:, None], chosen, frames)
    counted_frame = np.full((n, 4), frames, dtype=np.int64)
    counted_frame[:, :most] = np.sort(chosen, axis=1)
    for k in range(most):
        show(7, np.minimum(counted_frame[:, k], frames - 1), k < appearances)

    record = Clips(
        pixels=np.zeros((n, frames, 0), dtype=np.uint8),
        shape=shapes[:, :ROLES],
        colour=colour,
        visible=visible,
        cx=cx,
        cy=cy,
        direction=direction,
        needle_frame=needle_frame,
        appearances=appearances,
        counted_frame=counted_frame,
        counted_colour=counted_colour,
        pairs=pairs[:, :4],
        absent=shapes[:, ROLES:],
    )
    return replace(record, pixels=_draw(record, stream))


def frame_colour(clips: Clips) -> Ints:
    """Colour index of every role in every frame, [clips, 8, frames]."""
    out = np.repeat(clips.colour[:, :, None], clips.frames, axis=2)
    for k in range(4):
        rows = np.nonzero(k < clips.appearances)[0]
        out[rows, 7, clips.counted_frame[rows, k]] = clips.counted_colour[rows, k]
    return out


def _background(n: int, frames: int, stream: Stream) -> npt.NDArray[np.int16]:
    grid = 65 + stream.below(56, (n, 8, 8, 1)) + stream.below(17, (n, 8, 8, 3)) - 8
    fine = grid
    for axis in (1, 2):  # integer linear interpolation, periodic
        following = np.roll(fine, -1, axis=axis)
        steps = [(fine * (8 - k) + following * k) >> 3 for k in range(8)]
        shape = list(fine.shape)
        shape[axis] *= 8
        fine = np.stack(steps, axis=axis + 1).reshape(shape)
    fine = fine.astype(np.int16)
    origin = stream.below(SIZE, (n, 2, 1))
    velocity = stream.below(5, (n, 2, 1)) - 2
    offset = (origin + velocity * np.arange(frames)) % SIZE
    ys = (offset[:, 0, :, None] + np.arange(SIZE)) % SIZE
    xs = (offset[:, 1, :, None] + np.arange(SIZE)) % SIZE
    out: npt.NDArray[np.int16] = fine[
        np.arange(n)[:, None, None, None], ys[..., None], xs[:, :, None]
    ]
    return out


def _noise(count: int, stream: Stream) -> npt.NDArray[np.int16]:
    """Roughly normal integers, standard deviation 10, from sums of four bytes."""
    parts = (
        stream.raw((count + 1) // 2)
        .astype("<u8")
        .view(np.uint8)
        .reshape(4, -1)[:, :count]
        .astype(np.int16)
    )
    total = parts[0] + parts[1] + parts[2] + parts[3] - 510
    out: npt.NDArray[np.int16] = (total * 9) >> 7
    return out


def _draw(clips: Clips, stream: Stream) -> Frames:
    n, frames = clips.visible.shape[0], clips.visible.shape[2]
    image = np.ascontiguousarray(_background(n, frames, stream))  # `flat` must be a view of it
    flat = image.reshape(-1, 3)
    base = np.arange(n * frames).reshape(n, frames) * SIZE * SIZE
    dots = stream.below(SIZE - 2, (2, CLUTTER, n, frames))
    dot_colour = PALETTE[stream.below(8, (CLUTTER, n, frames))]
    square = np.arange(3)[:, None] * SIZE + np.arange(3)
    for k in range(CLUTTER):
        where = base + dots[0, k] * SIZE + dots[1, k]
        flat[where[..., None, None] + square] = dot_colour[k][:, :, None, None]
    size = stream.below(len(SIZES), (n, ROLES))
    hue = frame_colour(clips)
    tint = (stream.below(2 * JITTER + 1, (n, ROLES, 3)) - JITTER).astype(np.int16)
    masks = stencils()
    patch = np.arange(PATCH)[:, None] * SIZE + np.arange(PATCH)
    for role in range(ROLES):
        b, f = np.nonzero(clips.visible[:, role])
        corner = base[b, f] + (clips.cy[b, role, f] - LOW) * SIZE + clips.cx[b, role, f] - LOW
        mask = masks[clips.shape[b, role], size[b, role]]
        colour = PALETTE[hue[b, role, f]] + tint[b, role]
        which, dy, dx = np.nonzero(mask)
        flat[corner[which] + patch[dy, dx]] = colour[which]
    image += _noise(image.size, stream).reshape(image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)
