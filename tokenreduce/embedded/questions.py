"""The words of the embedded model: vocabulary, question templates, categories and answers.

Everything here is plain numpy on the event record of `clips.Clips`, vectorised over clips, so that
training and the benchmark ask exactly the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenreduce.embedded.clips import Clips, Stream

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SHAPES = (
    "circle",
    "square",
    "triangle",
    "diamond",
    "ring",
    "cross",
    "ex",
    "bar",
    "pillar",
    "box",
)
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "magenta", "white")
QUADRANTS = ("topleft", "topright", "bottomleft", "bottomright")
WHENS = ("early", "middle", "late")
DIRECTIONS = ("left", "right", "up", "down")
COUNTS = ("one", "two", "three", "four")

#: The benchmark's categories, in the order in which a clip's ten questions are asked.
CATEGORIES = (
    "color_static",
    "needle_color",
    "needle_where",
    "needle_when",
    "order",
    "direction",
    "count",
    "exist",
    "same_color",
    "firstlast",
)
#: Chance of a blind guess in each category (the number of possible answers).
CHANCE = {
    "color_static": 1 / 8,
    "needle_color": 1 / 8,
    "needle_where": 1 / 4,
    "needle_when": 1 / 3,
    "order": 1 / 2,
    "direction": 1 / 4,
    "count": 1 / 4,
    "exist": 1 / 2,
    "same_color": 1 / 9,
    "firstlast": 1 / 8,
}

# A and B stand for shape words; F for "first" or "last".
TEMPLATES = {
    "color_static": "what color is the A",
    "needle_color": "what color is the A",
    "color_any": "what color is the A",
    "needle_where": "where is the A",
    "needle_when": "when does the A appear",
    "order": "which comes first the A or the B",
    "direction": "which way does the A move",
    "count": "how many times does the A appear",
    "exist": "is there a A",
    "same_color": "which shape has the same color as the A",
    "firstlast": "what was the F color of the A",
}

PAD, UNK, IM_START, IM_END, IMAGE, VIDEO = (
    "<pad>",
    "<unk>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<video>",
)
SPECIAL = (PAD, UNK, IM_START, IM_END, IMAGE, VIDEO)
_TEMPLATE_WORDS = sorted(
    {w for t in TEMPLATES.values() for w in t.split() if w not in {"A", "B", "F"}}
    | {"first", "last"}
)
VOCABULARY: tuple[str, ...] = (
    *SPECIAL,
    "user",
    "assistant",
    *_TEMPLATE_WORDS,
    *SHAPES,
    *COLOURS,
    *QUADRANTS,
    *WHENS,
    *DIRECTIONS,
    *COUNTS,
    "yes",
    "no",
)
WORD_ID = {word: index for index, word in enumerate(VOCABULARY)}

PREFIX = (IM_START, "user")  # before the video tokens
SUFFIX = (IM_END, "assistant")  # between the question and the answer

#: What training asks of one clip; the benchmark asks `CATEGORIES`, each once.
PLAN_SINGLE = (
    "color_static",
    *("color_any",) * 3,
    *("needle_where",) * 3,
    "exist",
    *("same_color",) * 4,
)
PLAN_VIDEO = (
    "color_static",
    *("needle_color",) * 2,
    "needle_where",
    *("needle_when",) * 2,
    *("order",) * 2,
    *("direction",) * 2,
    "count",
    "exist",
    *("same_color",) * 2,
    *("firstlast",) * 2,
)
MAX_TOKENS = max(len(t.split()) for t in TEMPLATES.values()) + len(SUFFIX) + 1


def _ids(words: tuple[str, ...]) -> Ints:
    return np.array([WORD_ID[w] for w in words], dtype=np.int64)


SHAPE_IDS, COLOUR_IDS, QUADRANT_IDS = _ids(SHAPES), _ids(COLOURS), _ids(QUADRANTS)
WHEN_IDS, DIRECTION_IDS, COUNT_IDS = _ids(WHENS), _ids(DIRECTIONS), _ids(COUNTS)


@dataclass(frozen=True)
class Questions:
    """Questions about a batch of clips.

    Attributes
    ----------
    tokens : int64 [clips, questions, MAX_TOKENS]
        Question, suffix and answer as vocabulary ids, padded on the right.
    answer_at : int64 [clips, questions]
        Index of the answer token in `tokens`.
    subject_at : int64 [clips, questions]
        Index of the word that names the first shape.
    other_at : int64 [clips, questions]
        Index of the word that names the second shape, -1 where there is none.
    subject_colour : int64 [clips, questions]
        Vocabulary id of the first shape's colour, -1 where it has none or several.
    subject_frame, other_frame : int64 [clips, questions]
        Frame of the first and second shape if they are needles, else -1.
    evidence_role, evidence_frame : int64 [clips, questions]
        Where to look in the second step of questions that take two: the twin in colour (any
        frame: -1), or one appearance of the counted shape. -1 for other questions.
    valid : bool [clips, questions]
        False where the clip gives no unambiguous instance of the category.
    categories : tuple of str, length questions
    """

    tokens: Ints
    answer_at: Ints
    subject_at: Ints
    other_at: Ints
    subject_colour: Ints
    subject_frame: Ints
    other_frame: Ints
    evidence_role: Ints
    evidence_frame: Ints
    valid: Bools
    categories: tuple[str, ...]

    @property
    def answers(self) -> Ints:
        """Vocabulary id of every answer, [clips, questions]."""
        return np.take_along_axis(self.tokens, self.answer_at[..., None], axis=2)[..., 0]

    def text(self, clip: int, question: int) -> tuple[str, str]:
        """Return question and answer of one entry as words."""
        end = int(self.answer_at[clip, question])
        words = [VOCABULARY[i] for i in self.tokens[clip, question, : end + 1]]
        return " ".join(words[: end - len(SUFFIX)]), words[end]


def when_of(frame: Ints, frames: int) -> tuple[Ints, Bools]:
    """Third of the clip in which a frame lies, and whether that is beyond doubt.

    A frame whose middle is nearer than 1/16 of the clip to a border between thirds is ambiguous.
    """
    third = (2 * frame + 1) * 3 // (2 * frames)
    clear = np.ones(frame.shape, dtype=np.bool_)
    for border in (1, 2):
        clear &= 16 * np.abs(6 * frame + 3 - 2 * border * frames) >= 6 * frames
    return third, clear


def quadrant_of(cx: Ints, cy: Ints) -> Ints:
    """Quadrant index (row-major) of a centre in pixels of the 64 x 64 frame."""
    return (cy >= 32).astype(np.int64) * 2 + (cx >= 32)


def _pick(allowed: Bools, stream: Stream) -> tuple[Ints, Bools]:
    """One allowed column per row, uniformly; second value: is there any."""
    keys = stream.below(1 << 20, allowed.shape) + np.where(allowed, 0, 1 << 21)
    return np.argmin(keys, axis=1), np.asarray(allowed.any(axis=1))


@dataclass(frozen=True)
class _Instance:
    subject: Ints  # shape index of A
    answer: Ints  # vocabulary id
    valid: Bools
    colour: Ints | None = None  # vocabulary id of A's colour
    other: Ints | None = None  # shape index of B
    modifier: Ints | None = None  # vocabulary id of F
    frame: Ints | None = None  # of A
    other_frame: Ints | None = None
    evidence_role: Ints | None = None
    evidence_frame: Ints | None = None


def _instance(category: str, clips: Clips, stream: Stream) -> _Instance:
    n, frames = clips.count, clips.frames
    rows = np.arange(n)
    every = np.ones(n, dtype=np.bool_)

    def role_question(roles: range, allowed: Bools | None = None) -> tuple[Ints, Bools]:
        mask = np.ones((n, len(roles)), dtype=np.bool_) if allowed is None else allowed
        index, ok = _pick(mask, stream)
        return index + roles.start, ok

    def colour_of(role: Ints) -> Ints:
        return COLOUR_IDS[clips.colour[rows, role]]

    if category in {"color_static", "needle_color", "color_any"}:
        roles = {"color_static": range(2, 4), "needle_color": range(4, 7), "color_any": range(7)}[
            category
        ]
        role, ok = role_question(roles)
        return _Instance(clips.shape[rows, role], colour_of(role), ok, colour_of(role))
    if category in {"needle_where", "needle_when"}:
        third, clear = when_of(clips.needle_frame, frames)
        role, ok = role_question(range(4, 7), clear if category == "needle_when" else None)
        frame = clips.needle_frame[rows, role - 4]
        if category == "needle_when":
            answer = WHEN_IDS[third[rows, role - 4]]
        else:
            answer = QUADRANT_IDS[
                quadrant_of(clips.cx[rows, role, frame], clips.cy[rows, role, frame])
            ]
        return _Instance(clips.shape[rows, role], answer, ok, colour_of(role), frame=frame)
    if category == "order":
        order = stream.permutation(n, 3)
        a, b = order[:, 0], order[:, 1]
        fa, fb = clips.needle_frame[rows, a], clips.needle_frame[rows, b]
        first = np.where(fa < fb, a, b) + 4
        return _Instance(
            clips.shape[rows, a + 4],
            SHAPE_IDS[clips.shape[rows, first]],
            fa != fb,
            colour_of(a + 4),
            other=clips.shape[rows, b + 4],
            frame=fa,
            other_frame=fb,
        )
    if category == "direction":
        role, _ = role_question(range(2))
        moved = np.full(n, frames >= 4)
        return _Instance(
            clips.shape[rows, role],
            DIRECTION_IDS[clips.direction[rows, role]],
            moved,
            colour_of(role),
        )
    if category == "count":
        answer = COUNT_IDS[clips.appearances - 1]
        final = clips.counted_frame[rows, clips.appearances - 1]
        counted = np.full(n, 7, dtype=np.int64)
        return _Instance(
            clips.shape[:, 7], answer, every, evidence_role=counted, evidence_frame=final
        )
    if category == "exist":
        present = stream.below(2, (n,)) == 1
        role = stream.below(8, (n,))
        missing = clips.absent[rows, stream.below(2, (n,))]
        subject = np.where(present, clips.shape[rows, role], missing)
        return _Instance(subject, np.where(present, WORD_ID["yes"], WORD_ID["no"]), every)
    if category == "same_color":
        which = stream.below(4, (n,))
        role, twin = clips.pairs[rows, which], clips.pairs[rows, which ^ 1]
        answer = SHAPE_IDS[clips.shape[rows, twin]]
        return _Instance(
            clips.shape[rows, role], answer, every, colour_of(role), evidence_role=twin
        )
    if category == "firstlast":
        last = stream.below(2, (n,)) == 1
        index = np.where(last, clips.appearances - 1, 0)
        modifier = np.where(last, WORD_ID["last"], WORD_ID["first"])
        answer = COLOUR_IDS[clips.counted_colour[rows, index]]
        return _Instance(
            clips.shape[:, 7],
            answer,
            clips.appearances >= 2,
            modifier=modifier,
            evidence_role=np.full(n, 7, dtype=np.int64),
            evidence_frame=clips.counted_frame[rows, index],
        )
    raise AssertionError(category)


def ask(clips: Clips, stream: Stream, plan: tuple[str, ...] = CATEGORIES) -> Questions:
    """Ask every clip one question per entry of `plan`.

    Parameters
    ----------
    clips : Clips
        The event record to ask about.
    stream : Stream
        Source of the random choices (which shape, which pair).
    plan : tuple of str
        Categories; one may occur several times.
    """
    n, width = clips.count, len(plan)
    tokens = np.full((n, width, MAX_TOKENS), WORD_ID[PAD], dtype=np.int64)
    answer_at = np.zeros((n, width), dtype=np.int64)
    subject_at = np.zeros((n, width), dtype=np.int64)
    valid = np.zeros((n, width), dtype=np.bool_)
    other_at, colour, frame, other_frame, role, moment = (
        np.full((n, width), -1, dtype=np.int64) for _ in range(6)
    )
    for column, category in enumerate(plan):
        it = _instance(category, clips, stream)
        words = TEMPLATES[category].split()
        for at, word in enumerate(words):
            if word == "A":
                tokens[:, column, at] = SHAPE_IDS[it.subject]
                subject_at[:, column] = at
            elif word == "B" and it.other is not None:
                tokens[:, column, at] = SHAPE_IDS[it.other]
                other_at[:, column] = at
            elif word == "F" and it.modifier is not None:
                tokens[:, column, at] = it.modifier
            else:
                tokens[:, column, at] = WORD_ID[word]
        end = len(words) + len(SUFFIX)
        tokens[:, column, len(words) : end] = _ids(SUFFIX)
        tokens[:, column, end] = it.answer
        answer_at[:, column] = end
        valid[:, column] = it.valid
        known = (
            (colour, it.colour),
            (frame, it.frame),
            (other_frame, it.other_frame),
            (role, it.evidence_role),
            (moment, it.evidence_frame),
        )
        for target, values in known:
            if values is not None:
                target[:, column] = values
    return Questions(
        tokens=tokens,
        answer_at=answer_at,
        subject_at=subject_at,
        other_at=other_at,
        subject_colour=colour,
        subject_frame=frame,
        other_frame=other_frame,
        evidence_role=role,
        evidence_frame=moment,
        valid=valid,
        categories=plan,
    )
