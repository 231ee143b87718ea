"""The generator: same bytes everywhere, and answers that follow from what is shown."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from tokenreduce.embedded import questions as words
from tokenreduce.embedded.clips import (
    LOW,
    PALETTE,
    ROLES,
    Stream,
    frame_colour,
    make_clips,
    stencils,
)
from tokenreduce.embedded.questions import CATEGORIES, PLAN_SINGLE, PLAN_VIDEO, ask

CHECKSUMS = {
    1: "55b0b64e788f9c3dd07fe115361d32654601db48bbfb912e8ab07781c4780cb4",
    4: "3f8135e746b568af3040e9aab34c2ac736d10aa3659a87cf06988838fc63a189",
    8: "b6f573ff83b6207c3ee1dbe7ca120ad2c0ca0aee8e9ff05f78cfd000ed485f1c",
    16: "2f5493a38a6e2482afa8b83be8b093c2abbc4dd1b9fb098889ab7914af4b7be3",
}


def sha256(frames):
    return hashlib.sha256(np.ascontiguousarray(frames).tobytes()).hexdigest()


@pytest.mark.parametrize("frames", [1, 4, 8, 16])
def test_rendered_frames_have_the_recorded_checksum(frames):
    clips = make_clips(2, frames, Stream(1, 2, 3, frames))
    assert clips.pixels.shape == (2, frames, 64, 64, 3)
    assert sha256(clips.pixels) == CHECKSUMS[frames]


def test_streams_of_different_seeds_differ_and_equal_seeds_agree():
    assert (Stream(5, 1).raw(8) == Stream(5, 1).raw(8)).all()
    assert (Stream(5, 1).raw(8) != Stream(5, 2).raw(8)).all()
    draws = Stream(9).below(7, (7000,))
    assert draws.min() == 0
    assert draws.max() == 6
    assert np.abs(np.bincount(draws) - 1000).max() < 150


def test_shapes_are_told_apart_at_every_size():
    masks = stencils().reshape(10, 3, -1)
    for size in range(3):
        for a in range(10):
            for b in range(a):
                assert (masks[a, size] != masks[b, size]).sum() >= 8


def test_every_visible_object_is_drawn_where_the_record_says():
    clips = make_clips(20, 8, Stream(11))
    colour = frame_colour(clips)
    for b, role, f in zip(*np.nonzero(clips.visible), strict=True):
        cx, cy = clips.cx[b, role, f], clips.cy[b, role, f]
        patch = clips.pixels[b, f, cy - 7 : cy + 8, cx - 7 : cx + 8].astype(int)
        distance = np.abs(patch - PALETTE[colour[b, role, f]]).max(axis=-1)
        assert (distance < 60).sum() >= 9


def brute_force(clips, b, question):
    """Answer from the record of one clip by looking at every frame; None: ambiguous."""
    names = [words.SHAPES[s] for s in clips.shape[b]]
    colour = frame_colour(clips)[b]
    sightings = [
        (f, names[r], words.COLOURS[colour[r, f]], clips.cx[b, r, f], clips.cy[b, r, f])
        for f in range(clips.frames)
        for r in range(ROLES)
        if clips.visible[b, r, f]
    ]
    asked = question.split()
    of = lambda name: [s for s in sightings if s[1] == name]  # noqa: E731
    subject = asked[-1]
    if question.startswith("what color is"):
        found = {s[2] for s in of(subject)}
        return found.pop() if len(found) == 1 else None
    if question.startswith("where is"):
        (only,) = of(subject)
        return ("top" if only[4] < 32 else "bottom") + ("left" if only[3] < 32 else "right")
    if question.startswith("when does"):
        (only,) = of(asked[-2])
        middle = (only[0] + 0.5) / clips.frames
        borders = (abs(middle - 1 / 3), abs(middle - 2 / 3))
        return None if min(borders) < 1 / 16 - 1e-9 else words.WHENS[int(middle * 3)]
    if question.startswith("which comes first"):
        a, b_ = of(asked[4])[0][0], of(asked[7])[0][0]
        return None if a == b_ else (asked[4] if a < b_ else asked[7])
    if question.startswith("which way"):
        first, *_, last = of(asked[4])
        dx, dy = last[3] - first[3], last[4] - first[4]
        if abs(dx) > abs(dy):
            return "right" if dx > 0 else "left"
        return "down" if dy > 0 else "up"
    if question.startswith("how many"):
        return words.COUNTS[len(of(asked[-2])) - 1]
    if question.startswith("is there"):
        return "yes" if of(subject) else "no"
    if question.startswith("which shape"):
        hue = of(subject)[0][2]
        twins = {s[1] for s in sightings if s[2] == hue} - {subject}
        return twins.pop() if len(twins) == 1 else None
    if question.startswith("what was"):
        hues = [s[2] for s in sorted(of(subject))]
        if len(hues) < 2:
            return None
        return hues[0] if asked[3] == "first" else hues[-1]
    raise AssertionError(question)


@pytest.mark.parametrize("frames", [8, 16, 64])
def test_answers_equal_those_found_by_looking_at_every_frame(frames):
    stream = Stream(21, frames)
    clips = make_clips(12, frames, stream)
    asked = ask(clips, stream, PLAN_VIDEO)
    checked = 0
    for b in range(clips.count):
        for q in range(len(PLAN_VIDEO)):
            if asked.valid[b, q]:
                question, answer = asked.text(b, q)
                assert brute_force(clips, b, question) == answer, question
                checked += 1
    assert checked > 10 * clips.count


def test_single_frames_answer_the_single_frame_questions():
    stream = Stream(22)
    clips = make_clips(40, 1, stream)
    asked = ask(clips, stream, PLAN_SINGLE)
    assert asked.valid.all()
    for b in range(clips.count):
        for q in range(len(PLAN_SINGLE)):
            question, answer = asked.text(b, q)
            assert brute_force(clips, b, question) == answer


def test_a_moment_near_a_border_between_thirds_is_not_asked_about():
    third, clear = words.when_of(np.arange(8), 8)
    assert third.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert np.nonzero(~clear)[0].tolist() == [2, 5]


def test_answers_are_spread_over_the_words_of_each_category():
    stream = Stream(23)
    clips = make_clips(250, 8, stream)
    asked = ask(clips, stream)
    for column, category in enumerate(CATEGORIES):
        answers = asked.answers[asked.valid[:, column], column]
        _, counts = np.unique(answers, return_counts=True)
        assert counts.max() / counts.sum() < 1.4 * words.CHANCE[category] + 0.03, category


def test_objects_stay_inside_the_frame():
    clips = make_clips(100, 16, Stream(24))
    inside = clips.cx[clips.visible], clips.cy[clips.visible]
    for values in inside:
        assert values.min() >= LOW
        assert values.max() <= 63 - LOW


def test_the_package_imports_neither_torch_nor_transformers():
    code = (
        "import sys, tokenreduce.embedded, tokenreduce.embedded.benchmark\n"
        "sys.exit(' '.join({'torch', 'transformers', 'numpy', 'av'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
