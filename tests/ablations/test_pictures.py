"""What pictures are drawn from, against the model's own attention, brute force and arithmetic."""

from __future__ import annotations

import subprocess
import sys
from base64 import b64decode
from collections.abc import Sequence
from io import BytesIO
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image

from tests.adapters.family import FamilyCase, families
from tokenreduce import Plan, Reducer, View
from tokenreduce.api import make_reducer
from tokenreduce.benchmark import Sample
from tokenreduce.errors import ConfigError
from tokenreduce.inference import Loaded
from tokenreduce.layout import Role
from tokenreduce.pictures import attention, recording
from tokenreduce.pictures.documents import Levels, Overlay, numbered, read_document
from tokenreduce.pictures.figures import png, svg
from tokenreduce.pictures.images import LONGEST_EDGE, jpeg_url
from tokenreduce.pictures.tradeoff import AXES, Axis, Point, tradeoff
from tokenreduce.plugins import load_plugins
from tokenreduce.testing.oracle import masked
from tokenreduce.testing.tiny import PER_FRAME, single, tiny_onevision
from tokenreduce.video import Video
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision

FIRST = 3  # position of the first visual token of `single`
FRAMES = 6
LAYERS = 6
ROOT = Path(__file__).parent.parent.parent
SAMPLE = Sample("clip-1", Path("clip.mp4"), "what is it ?", "a cat", "kind")
ODD = [
    "$\\frac{",
    "_hidden",
    "a\u2028b",
    "</script><b>",
    "字",
    "half \ud800",
    "",
    "x" * 200,
    "a\x00\x07 --!>",
]


def tiny_loaded(says: str = "a dog") -> Loaded:
    processor = SimpleNamespace(decode=lambda tokens: says)
    checkpoint: Any = SimpleNamespace(model=tiny_onevision(layers=LAYERS), processor=processor)
    return Loaded("tiny", LlavaOnevision(), checkpoint, "cpu")


def clip(frames: int = FRAMES) -> Video:
    pixels = torch.randint(0, 256, (frames, 32, 32, 3), dtype=torch.uint8)
    times = tuple(0.5 * k for k in range(frames))
    return Video(pixels, tuple(range(frames)), times, 2.0, frames, Path("clip.mp4"))


def reducers_of(name: str, **settings: Any) -> list[Reducer]:
    return [make_reducer(name, settings, load_plugins(entry_points=[]).registry)]


DROPPING = {
    "nothing": [],
    "vas": reducers_of("vas", ratio=0.4, start_layer=1, interval=1, end_layer=4),
    "fastv": reducers_of("fastv", layer=1),
    "random": reducers_of("random", layers=[0, 2]),
}


@pytest.mark.parametrize("name", DROPPING)
def test_levels_are_the_eager_models_own_attention(name: str) -> None:
    loaded, reducers = tiny_loaded(), DROPPING[name]
    found = read_document(Levels, recording.levels(loaded, single(FRAMES), reducers), "here")
    with loaded.session(reducers).attached() as run, torch.no_grad():
        loaded.model(**single(FRAMES))
    held = run.trace.kept_positions()
    eager, inputs = tiny_onevision(layers=LAYERS, attention="eager"), single(FRAMES)
    length = inputs["input_ids"].shape[1]
    with torch.no_grad(), masked(eager, held, length):
        maps = eager(**inputs, output_attentions=True).attentions
    assert found.layers == tuple(range(LAYERS))
    for layer, row in zip(found.layers, found.attention, strict=True):
        asking = range(FIRST + FRAMES * PER_FRAME + 1, length)
        expected = maps[layer][0][:, list(asking)].mean(dim=(0, 1))
        for patch, value in enumerate(row):
            position = FIRST + patch
            if position not in held[layer][0]:
                assert value is None
            else:  # three digits are kept
                assert value == pytest.approx(float(expected[position]), rel=6e-3, abs=1e-6)
    assert name == "nothing" or None in found.attention[-1]


def test_levels_of_layers_without_any_visual_token_are_empty() -> None:
    reducers = reducers_of("vtw", layer=2)
    found = read_document(Levels, recording.levels(tiny_loaded(), single(FRAMES), reducers), "here")
    assert found.layers == tuple(range(LAYERS))
    seen = [any(value is not None for value in row) for row in found.attention]
    assert seen == [True] * 3 + [False] * 3


def test_a_recorder_leaves_the_reducers_choice_as_it_is() -> None:
    loaded, reducers = tiny_loaded(), DROPPING["vas"]
    shot = read_document(
        Overlay, recording.overlay(loaded, single(FRAMES), clip(), SAMPLE, reducers), "here"
    )
    levels = read_document(Levels, recording.levels(loaded, single(FRAMES), reducers), "here")
    left = [sum(value is not None for value in row) for row in levels.attention]
    assert tuple(left) == shot.tokens_per_layer


class Shuffling(Reducer):
    """Drops some tokens and merges some, anew after every layer but the last."""

    name: ClassVar[str] = "shuffling"

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        return tuple(range(-1, num_layers - 1))

    def plan(self, view: View) -> Plan | None:
        return Plan.groups(labels_after(view.layer, len(view)), note=f"at {view.layer}")


def labels_after(layer: int, tokens: int) -> torch.Tensor:
    """Send about a quarter of the tokens to earlier ones, wherever these are, and drop a few."""
    generator = torch.Generator().manual_seed(layer + 7)
    labels = torch.arange(tokens)
    draw = torch.rand(tokens, 2, generator=generator)
    earlier = (draw[:, 0] * labels).long()
    labels = torch.where(draw[:, 1] < 0.25, earlier, labels)
    return labels.masked_fill(draw[:, 1] > 0.95, -1)


def owners_at(shot: Overlay, layer: int) -> list[int]:
    owners = list(range(len(shot.patches)))
    for change in shot.changes:
        if change.layer < layer:
            for patch, owner in zip(change.patches, change.owners, strict=True):
                assert owners[patch] != owner, "a change names what changes only"
                owners[patch] = owner
    return owners


def test_overlay_says_of_every_patch_where_it_went() -> None:
    found = recording.overlay(tiny_loaded(), single(FRAMES), clip(), SAMPLE, [Shuffling()])
    shot = read_document(Overlay, found, "here")
    tokens = [[patch] for patch in range(FRAMES * PER_FRAME)]  # patches of each token
    for layer in range(LAYERS):
        groups: dict[int, list[int]] = {}
        labels = labels_after(layer - 1, len(tokens)).tolist()
        for label, patches in zip(labels, tokens, strict=True):
            if label >= 0:
                groups.setdefault(label, []).extend(patches)
        tokens = list(groups.values())
        expected = [-1] * (FRAMES * PER_FRAME)
        for patches in tokens:
            for patch in patches:
                expected[patch] = patches[0]
        assert owners_at(shot, layer) == expected
        assert shot.tokens_per_layer[layer] == len(tokens)
        (change,) = [each for each in shot.changes if each.layer == layer - 1]
        assert (change.note, change.after) == (f"at {layer - 1}", len(tokens))
    assert any(len(patches) > 2 for patches in tokens)
    assert -1 in expected


def test_overlay_keeps_question_answer_and_frames() -> None:
    video = clip()
    found = recording.overlay(tiny_loaded("half \ud800"), single(FRAMES), video, SAMPLE, [])
    shot = read_document(Overlay, found, "here")
    assert (shot.question, shot.answer, shot.prediction) == ("what is it ?", "a cat", "half ?")
    assert [(f.rows, f.columns, f.seconds) for f in shot.frames] == [
        (2, 2, 0.5 * k) for k in range(FRAMES)
    ]
    assert shot.frames[2].image == jpeg_url(video.frames[2])
    assert shot.patches[:5] == ((0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0))
    assert shot.changes == ()


def test_a_frame_of_the_grid_that_pools_frames_shows_the_first() -> None:
    video = clip(2 * FRAMES)
    found = recording.overlay(tiny_loaded(), single(FRAMES), video, SAMPLE, [])
    shot = read_document(Overlay, found, "here")
    assert [frame.seconds for frame in shot.frames] == [k * 1.0 for k in range(FRAMES)]


def test_frames_of_several_items_are_numbered_through() -> None:
    cells = [(0, 0, 0, 0), (0, 1, 0, 0), (1, 0, 0, 0), (1, 0, 0, 1)]
    patches, panes = numbered(cells)
    assert patches == ((0, 0, 0), (1, 0, 0), (2, 0, 0), (2, 0, 1))
    assert panes == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize(("size", "shown"), [((64, 48), (64, 48)), ((300, 600), (96, 192))])
def test_frames_are_small_jpegs_that_look_like_the_frame(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    height, width = size
    ramp = torch.linspace(0, 255, width).expand(height, width)
    frame = torch.stack([ramp, 255 - ramp, torch.full_like(ramp, 90)], dim=-1).to(torch.uint8)
    url = jpeg_url(frame)
    kind, data = url.split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(BytesIO(b64decode(data))) as image:
        assert image.format == "JPEG"
        assert image.size == (shown[1], shown[0])
        assert max(image.size) <= LONGEST_EDGE
        found = np.asarray(image.convert("RGB"), dtype=float)
    place = np.linspace(0, width - 1, shown[1]).round().astype(int)
    assert np.abs(found[shown[0] // 2] - frame[height // 2].numpy()[place]).mean() < 4


FAMILIES = [
    pytest.param(case, kind, id=f"{case.name}-{kind}")
    for case in families()
    for kind in ("video", "images", "image")
    if kind in case.prompts
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "kind"), FAMILIES)
def test_pictures_of_every_family(case: FamilyCase, kind: str) -> None:
    """Each cell of the layout is a patch; the text's attention stays within its whole."""
    model, inputs = case.model(), case.prompts[kind]()
    processor = SimpleNamespace(decode=lambda tokens: "words")
    checkpoint: Any = SimpleNamespace(model=model, processor=processor)
    loaded = Loaded(case.name, case.adapter, checkpoint, "cpu")
    reducers = reducers_of("fastv", layer=3)
    shot = read_document(
        Overlay, recording.overlay(loaded, inputs, clip(3), SAMPLE, reducers), "here"
    )
    layout = case.adapter.layout(model, inputs)
    grid = (layout.role[0] == int(Role.GRID)).nonzero().squeeze(1)
    items = sorted({(int(layout.item[0, c]), int(layout.frame[0, c])) for c in grid})
    expected = [
        (items.index((int(layout.item[0, c]), int(layout.frame[0, c]))), *place)
        for c, place in zip(
            grid,
            zip(layout.row[0, grid].tolist(), layout.column[0, grid].tolist(), strict=True),
            strict=True,
        )
    ]
    assert list(shot.patches) == expected
    assert len(shot.frames) == len(items)
    left = [len(set(owners_at(shot, layer)) - {-1}) for layer in range(shot.num_layers)]
    assert tuple(left) == shot.tokens_per_layer
    levels = read_document(Levels, recording.levels(loaded, inputs, reducers), "here")
    first = max(0, case.adapter.first_layer(model))
    assert levels.layers == tuple(range(first, shot.num_layers))
    for layer, row in zip(levels.layers, levels.attention, strict=True):
        known = [value for value in row if value is not None]
        assert len(known) == shot.tokens_per_layer[layer]
        assert 0 < sum(known) <= 1.01


def test_a_document_of_another_version_is_told() -> None:
    with pytest.raises(ConfigError, match=r"there: this is no Levels that can be drawn"):
        read_document(Levels, '{"layers": 1}', "there")


PATCHES = tuple((frame, 0, column) for frame in range(2) for column in range(2))


def levels_of(*rows: Sequence[float | None]) -> Levels:
    layers = tuple(range(len(rows)))
    attention_of = tuple(tuple(row) for row in rows)
    return Levels(num_layers=len(rows), layers=layers, patches=PATCHES, attention=attention_of)


def test_levels_of_frames_are_sums_over_their_tokens() -> None:
    found = attention.frame_levels(levels_of((0.1, 0.2, 0.3, 0.4), (0.1, None, None, None)))
    np.testing.assert_allclose(found, [[0.3, 0.7], [0.1, np.nan]])


def test_relative_levels_are_smoothed_over_three_layers() -> None:
    absolute = np.array([[1.0, 3.0], [2.0, 2.0], [9.0, 1.0], [4.0, np.nan], [np.nan, np.nan]])
    # Over the mean of each layer: (0.5, 1.5), (1, 1), (1.8, 0.2), (1, -), (-, -).
    expected = [[0.75, 1.25], [1.1, 0.9], [3.8 / 3, 0.6], [1.4, np.nan], [np.nan, np.nan]]
    np.testing.assert_allclose(attention.relative_levels(absolute), expected)


def test_a_frames_cell_is_filled_as_far_as_its_tokens_are_left() -> None:
    levels = levels_of((0.1, 0.3, 0.5, 0.5), (0.4, None, None, None))
    figure = attention.frames_by_row({"all": levels})
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    expected = [[0.2, 0.4], [0.2, np.nan], [0.5, np.nan], [0.5, np.nan]]
    np.testing.assert_allclose(np.ma.filled(shown.astype(float), np.nan), expected)


def test_a_row_with_fewer_frames_does_not_cut_the_others() -> None:
    full = levels_of((0.1, 0.3, 0.5, 0.5))
    fewer = full.model_copy(update={"patches": ((0, 0, 0),), "attention": ((0.2,),)})
    figure = attention.frames_by_row({"keep_all": full, "fewer frames": fewer})
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() == (-0.5, 1.5)


def points(count: int, speedup: bool = False) -> list[Point]:
    generator = np.random.default_rng(3)
    found = []
    for number in range(count):
        cost, accuracy = generator.uniform(0.3, 1), generator.uniform(0.4, 0.95)
        cost = 1 / cost if speedup else cost
        found.append(
            Point(
                label=f"row{number} ratio=0.{number} interval={number}",
                family=f"row{number % 11}",
                cost=cost,
                accuracy=accuracy,
                cost_interval=(0.95 * cost, 1.05 * cost),
                accuracy_interval=(accuracy - 0.05, accuracy + 0.05),
            )
        )
    return found


@pytest.mark.parametrize("count", [1, 4, 9, 30])
def test_labels_do_not_cover_each_other(count: int) -> None:
    figure: Any = tradeoff(points(count), AXES["img_memory"], "title")
    figure.canvas.draw()
    # An annotation's own extent has the line to its point in it.
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    assert len(boxes) == count + 1  # and the word on the front
    for one, other in combinations(boxes, 2):
        assert not one.overlaps(other)


def test_many_rows_are_numbered_and_named_in_the_legend() -> None:
    rows = points(30)
    figure: Any = tradeoff(rows, AXES["flops"])
    (legend,) = figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert named == [f"{number}  {row.label}" for number, row in enumerate(rows, 1)]
    looks = {}
    for row, handle in zip(rows, legend.legend_handles, strict=True):
        looks.setdefault(row.family, set()).add((handle.get_color(), handle.get_marker()))
    assert all(len(each) == 1 for each in looks.values())
    assert len(set.union(*looks.values())) == 11


def front_of(rows: list[Point], axis: Axis) -> list[tuple[float, float]]:
    (line,) = [line for line in tradeoff(rows, axis).axes[0].lines if line.get_zorder() == 1]
    return [(float(x), float(y)) for x, y in np.asarray(line.get_xydata())]


def at(cost: float, accuracy: float) -> Point:
    return Point("a", "a", cost, accuracy)


def test_the_front_is_what_can_be_had_at_a_cost() -> None:
    rows = [at(0.5, 0.6), at(0.7, 0.5), at(0.8, 0.9), at(1.0, 0.9)]
    assert front_of(rows, AXES["flops"]) == [(0.5, 0.6), (0.8, 0.6), (0.8, 0.9)]
    faster = [at(1.0, 0.9), at(1.5, 0.7), at(1.4, 0.6), at(2.0, 0.5)]
    expected = [(1.0, 0.9), (1.0, 0.7), (1.5, 0.7), (1.5, 0.5), (2.0, 0.5)]
    assert front_of(faster, AXES["ttft_speedup"]) == expected


def test_figures_are_the_same_for_the_same_numbers() -> None:
    levels = levels_of((0.1, 0.3, 0.5, 0.5), (0.4, None, None, None))
    makers = [
        lambda: tradeoff(points(12), AXES["flops"], "title"),
        lambda: attention.frames_over_layers(levels, "title"),
        lambda: attention.frames_by_row({"keep_all": levels, "vas": levels}, "title"),
    ]
    for make in makers:
        text = svg(make(), "a\x00 <title>")
        assert text == svg(make(), "a\x00 <title>")
        assert "<dc:date>" not in text
        assert png(make()) == png(make())
        root = ElementTree.fromstring(text)
        assert root.findtext("{http://www.w3.org/2000/svg}title") == "a <title>"


def test_strange_labels_are_drawn_as_they_are() -> None:
    rows = [Point(label, label, 0.1 * n, 0.5) for n, label in enumerate(ODD, 1)]
    few, many = (tradeoff(each, AXES["flops"], ODD[0]) for each in (rows, rows * 2))
    levels = levels_of((0.1, 0.3, 0.5, 0.5))
    for figure in (few, many, attention.frames_by_row(dict.fromkeys(ODD, levels), ODD[0])):
        ElementTree.fromstring(svg(figure, ODD[0]))
    words = [text.get_text() for text in few.axes[0].texts]
    assert words[1:] == [
        "$\\frac{",
        "_hidden",
        "a b",
        "</script><b>",
        "字",
        "half ?",
        "",
        "x" * 59 + "…",
        "a --!>",
    ]


def test_drawing_leaves_the_settings_of_others_alone() -> None:
    code = (
        "import sys, matplotlib\n"
        "matplotlib.rcParams['font.size'] = 3\n"
        "from tokenreduce.pictures.figures import svg\n"
        "from tokenreduce.pictures.tradeoff import AXES, Point, tradeoff\n"
        "svg(tradeoff([Point('a', 'a', 0.5, 0.5)], AXES['flops']), 't')\n"
        "assert matplotlib.rcParams['font.size'] == 3\n"
        "print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "set()\n"
