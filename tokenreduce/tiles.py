"""Read from token ids how pictures were cut to tiles, and which of them are frames of a video.

Some families have one placeholder for all pictures and return neither the arrangement of tiles nor
which pictures are frames: it stands in the prompt alone, in words whose ids no configuration names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenreduce.errors import AdapterError
from tokenreduce.layout import contiguous_runs
from tokenreduce.placement import Grid, Item

if TYPE_CHECKING:
    from torch import Tensor

NUMBER, TIME = 4, 6  # tokens of a number, and of a time such as 100:00, in a caption


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a prompt.

    Attributes
    ----------
    caption
        Token ids between the picture before, or the beginning of the sample, and this one.
    lines
        Number of tiles in each row of tiles; empty if it was not cut.
    """

    caption: tuple[int, ...]
    lines: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Placeholders that follow one another.

    Attributes
    ----------
    tokens
        How many there are.
    before
        Token ids between the run before, or the beginning of the sample, and this one.
    after
        The token id behind it; None at the end of the sample.
    """

    tokens: int
    before: tuple[int, ...]
    after: int | None


def runs(row: Sequence[int], token: int) -> list[Run]:
    """Return the runs of a placeholder in the token ids of one sample."""
    found, end = [], 0
    for start, length in contiguous_runs(other == token for other in row):
        before, end = tuple(row[end:start]), start + length
        found.append(Run(length, before, row[end] if end < len(row) else None))
    return found


def require_tiles(run: Run, side: int, sample: int) -> int:
    """Return how many tiles of ``side`` x ``side`` tokens a run is.

    Raises
    ------
    AdapterError
        If it is no whole number of them.
    """
    tiles, rest = divmod(run.tokens, side**2)
    if rest:
        raise AdapterError(
            f"sample {sample}: a run of {run.tokens} placeholders is no whole number of tiles of "
            f"{side} x {side} tokens: were text and pixels prepared together, with this model's "
            "own processor?"
        )
    return tiles


def tiled(lines: Sequence[int], side: int, frame: int, sample: int) -> list[Grid]:
    """Return a picture that was cut to tiles as one grid: the tiles row by row.

    Parameters
    ----------
    lines
        Number of tiles in each row of tiles.
    side
        Tokens per side of a tile.
    frame
        Number of the frame.
    sample
        For the message.

    Raises
    ------
    AdapterError
        If the rows are of different lengths.
    """
    if len(set(lines)) > 1:
        raise AdapterError(
            f"sample {sample}: the rows of an image's tiles have {list(lines)} tiles, which is no "
            "grid: write the prompt with this model's own processor."
        )
    return [
        Grid(1, side, side, frame, side * row, side * column)
        for row, count in enumerate(lines)
        for column in range(count)
    ]


def clips(pictures: Iterable[Picture], *, again: bool) -> Iterator[list[Picture]]:
    """Yield the pictures of one sample, those that are frames of one video together.

    They are pictures that were not cut, and whose captions (a line of a name and a number or time)
    differ in it alone.

    Parameters
    ----------
    pictures
        In the order of the sample.
    again
        Whether captions are times such as ``00:01:``, whose last token is there twice: the same
        time again is the next frame. Else another video begins with the caption of a first frame.
    """
    group: list[Picture] = []
    for picture in pictures:
        if group and not _goes_on(group, picture, again):
            yield group
            group = []
        group.append(picture)
    if group:
        yield group


def _goes_on(group: list[Picture], picture: Picture, again: bool) -> bool:
    if group[-1].lines or picture.lines:
        return False
    line = picture.caption[1:]  # without what ends the line before
    if again and _ends_in(group[-1].caption, line):
        return line[-1] in line[:-1]
    if _ends_in(group[0].caption, line):
        return False
    return _counts_on(group[-1].caption, line, TIME if again else NUMBER)


def _ends_in(ids: Sequence[int], end: Sequence[int]) -> bool:
    return bool(end) and tuple(ids[-len(end) :]) == tuple(end)


def _counts_on(before: Sequence[int], line: Sequence[int], most: int) -> bool:
    """Return whether ``line`` is what ``before`` ends in, but for a number of ``most`` tokens."""
    same = 0
    while same < min(len(before), len(line)) and before[-1 - same] == line[-1 - same]:
        same += 1
    if not same:
        return False
    before, line = before[: len(before) - same], line[: len(line) - same]
    for digits in range(1, min(most, len(line) - 1) + 1):
        name = line[: len(line) - digits]
        # A number that counts on has as many digits as the one before, or one more.
        if any(_ends_in(before[: len(before) - n], name) for n in (digits, digits - 1) if n):
            return True
    return False


def shuffled_side(config: Any) -> int:
    """Return the tokens per side of a tile, by the ``config`` of a model that shuffles pixels."""
    tower = config.vision_config
    return int(tower.image_size // tower.patch_size // config.scale_factor)


def bracketed_items(ids: Tensor, token: int, side: int) -> Iterator[Item]:
    """Yield the images and videos of a batch whose tiles each have a bracket token in front.

    An image is ``bracket marker tile`` for each tile, with a line break behind each row of tiles,
    then ``bracket marker view bracket``, the view being all of it; a small one is its view alone.
    Tiles are frame 0 of the item and the view is frame 1. Images of a view alone that :func:`clips`
    puts together are one video, and each is a frame.

    Parameters
    ----------
    ids
        ``[batch, tokens]`` token ids.
    token
        The placeholder's id.
    side
        Tokens per side of a tile, and of a view.

    Raises
    ------
    AdapterError
        If the tokens are no such images.
    """
    for sample, row in enumerate(ids.tolist()):
        pictures = _bracketed(runs(row, token), side, sample)
        for group in clips(pictures, again=True):
            if lines := group[0].lines:
                yield (*tiled(lines, side, 0, sample), Grid(1, side, side, 1))
            else:
                yield tuple(Grid(1, side, side, frame) for frame in range(len(group)))


def _bracketed(found: list[Run], side: int, sample: int) -> Iterator[Picture]:
    """Yield the pictures of one sample."""
    # The last image of a sample ends in the bracket, whose id no configuration names.
    bracket = found[-1].after if found else None
    caption: tuple[int, ...] = ()
    lines: list[int] = []
    for number, run in enumerate(found):
        if require_tiles(run, side, sample) != 1 or bracket not in run.before:
            raise AdapterError(
                f"sample {sample}: tile {number} has {run.tokens} placeholders behind the tokens "
                f"{list(run.before[-3:])}, not {side**2} behind a token {bracket}: write the "
                "prompt with this model's own processor."
            )
        last = len(run.before) - 1 - run.before[::-1].index(bracket)
        closed = number > 0 and run.before[0] == bracket
        if number == 0 or (closed and last > 0):
            if lines:
                yield _picture(caption, lines, sample)
            caption, lines = run.before[int(closed) : last], [1]
        elif closed:
            lines[-1] += 1
        else:
            lines.append(1)
    if lines:
        yield _picture(caption, lines, sample)


def _picture(caption: tuple[int, ...], lines: list[int], sample: int) -> Picture:
    if lines[-1] != 1:
        raise AdapterError(
            f"sample {sample}: an image ends in a row of {lines[-1]} tiles, not in a view of all "
            "of it: write the prompt with this model's own processor."
        )
    return Picture(caption, tuple(lines[:-1]))
