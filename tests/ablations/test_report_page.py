"""The page of `tokenreduce report`: complete, escaped, and right about every layer."""

from __future__ import annotations

import json
import os
import re
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tokenreduce.api import make_reducer
from tokenreduce.benchmark import Sample
from tokenreduce.cells import Cell, Setup
from tokenreduce.cli import app
from tokenreduce.errors import ConfigError
from tokenreduce.inference import Loaded
from tokenreduce.pictures import recording
from tokenreduce.pictures.documents import Overlay, Picture
from tokenreduce.pictures.page import Section, Shot, Table, render_page
from tokenreduce.pictures.report import write_report
from tokenreduce.plugins import load_plugins
from tokenreduce.records import PictureRecord, SampleRecord, TimingRecord
from tokenreduce.store import Store
from tokenreduce.testing.tiny import single, tiny_onevision
from tokenreduce.trace import Trace
from tokenreduce.video import Video
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
LAYERS, FRAMES, TOKENS = 6, 6, 24
NASTY = "</script><script>hacked=1</script>\"'><img src=x onerror=hacked=1>{{7*7}}{%x%}\u2028&amp;"
SETTINGS: dict[str, dict[str, Any]] = {
    "keep_all": {},
    "vas": {"ratio": 0.4, "start_layer": 1, "interval": 1, "end_layer": 4},
    "tome": {"r": 3},
    "vtw": {"layer": 2},
}
SETUP = Setup("tiny", {"use": f"bench {NASTY}"})


def label_of(name: str) -> str:
    return f"{name} {NASTY}" if name == "tome" else name


def cells() -> list[tuple[str, Cell]]:
    return [
        (name, Cell(SETUP, label_of(name), name, ({"use": name, **settings},), summary="given"))
        for name, settings in SETTINGS.items()
    ]


@pytest.fixture(scope="module")
def recorded() -> tuple[list[PictureRecord], dict[str, Trace]]:
    """Return pictures of two questions under every row, and the trace of each row."""
    registry = load_plugins(entry_points=[]).registry
    processor = SimpleNamespace(decode=lambda tokens: f"says {NASTY}")
    checkpoint: Any = SimpleNamespace(model=tiny_onevision(layers=LAYERS), processor=processor)
    loaded = Loaded("tiny", LlavaOnevision(), checkpoint, "cpu")
    pixels = torch.randint(0, 256, (FRAMES, 32, 32, 3), dtype=torch.uint8)
    times = tuple(map(float, range(FRAMES)))
    video = Video(pixels, tuple(range(FRAMES)), times, 1.0, FRAMES, Path("clip.mp4"))
    pictures: list[PictureRecord] = []
    traces: dict[str, Trace] = {}
    for name, settings in SETTINGS.items():
        reducers = [make_reducer(name, settings, registry)]
        for number in range(2):
            asked = f"what ? {NASTY}"
            sample = Sample(f"q{number}", Path("clip.mp4"), asked, "yes", "kind")
            pictures += recording.pictures(
                name, loaded, single(FRAMES), video, sample, reducers, max_new_tokens=2
            )
        with loaded.session(reducers).attached() as run:
            loaded.model.generate(**single(FRAMES), max_new_tokens=1, do_sample=False)
        traces[name] = run.trace
    return pictures, traces


def answers(traces: dict[str, Trace]) -> Iterator[SampleRecord]:
    for name, trace in traces.items():
        for number in range(4):
            record = SampleRecord(
                cell=name,
                sample=f"q{number}",
                digest="d",
                category=f"kind {number % 2}",
                answer="yes",
                prediction="yes",
                correct=number != 1 or name == "keep_all",
                visual_tokens=TOKENS,
                tokens_per_layer=trace.tokens_per_layer[0],
                flops=trace.flops,
                flops_full=trace.flops_full,
                kv_bytes=trace.kv_bytes,
                kv_bytes_full=trace.kv_bytes_full,
            )
            if name == "tome" and number == 3:
                record = replace(record, prediction=None, correct=None, error=f"why {NASTY}")
            yield record


Recorded = tuple[list[PictureRecord], dict[str, Trace]]


def results(folder: Path, recorded: Recorded, *, pictures: bool, timings: bool) -> Path:
    with Store.open(folder) as store:
        store.begin({}, cells(), {SETUP.key(): [f"q{number}" for number in range(4)]})
        store.add_many(answers(recorded[1]))
        if timings:
            for name in SETTINGS:
                times = [TimingRecord(name, f"q{n}", 0, 0.5 + 0.01 * n, 1.0) for n in range(4)]
                store.add_many(times)
        if pictures:
            store.add_many(recorded[0])
    return folder


@pytest.fixture(scope="module")
def folder(recorded: Recorded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = results(tmp_path_factory.mktemp("results"), recorded, pictures=True, timings=True)
    write_report(made, made / "report")
    return made


class Parsed(HTMLParser):
    """Elements with their attributes, and the text of the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.inside: dict[str, list[str]] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._open:
            self.inside.setdefault(self._open, []).append(data)


@pytest.fixture(scope="module")
def page(folder: Path) -> Parsed:
    return Parsed((folder / "report" / "index.html").read_text(encoding="utf-8"))


def test_no_string_from_outside_becomes_markup(page: Parsed) -> None:
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["script"] == 2
    figures = [attributes for tag, attributes in page.elements if tag == "img"]
    assert tags["img"] == 3 + 2 + 2  # trade-offs; two of each kind for each question
    assert all(str(each["src"]).startswith("data:image/svg+xml;base64,") for each in figures)
    assert not [name for _, attributes in page.elements for name in attributes if name[:2] == "on"]
    words = "".join(page.texts)
    assert f"tiny on bench {NASTY}" in words
    assert f"tome {NASTY}" in words
    assert f"why {NASTY}" in words


def test_the_data_of_the_viewer_survive_what_is_in_them(page: Parsed) -> None:
    (text,) = page.inside["data"]
    assert not set("<>&\u2028\u2029") & set(text)
    data = json.loads(text)
    assert data["samples"] == ["q0", "q1"]
    labels = [overlay["label"] for overlay in data["overlays"] if overlay["sample"] == 1]
    assert labels == [label_of(name) for name in SETTINGS]
    assert {overlay["prediction"] for overlay in data["overlays"]} == {f"says {NASTY}"}
    assert len(data["clips"]) == 1  # all rows show the same frames


def test_the_page_may_load_and_run_nothing_but_its_own(page: Parsed) -> None:
    (policy,) = [
        str(attributes["content"])
        for tag, attributes in page.elements
        if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for element, rule in (("script", "script-src"), ("style", "style-src")):
        own = "".join(page.inside[element])
        digest = b64encode(sha256(own.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"
    links = [
        a for _, a in page.elements if "href" in a or str(a.get("src", "data:"))[:5] != "data:"
    ]
    assert links == []


def test_tables_say_what_the_terminal_says(page: Parsed) -> None:
    words = [text.strip() for text in page.texts if text.strip()]
    for said in ("accuracy", "against keep_all", "Img-Mem", "1.000", "1 of 4 failed", "1.94x"):
        assert any(said in each for each in words), said


def test_figures_are_written_as_svg_and_png(folder: Path) -> None:
    names = {path.name for path in (folder / "report").iterdir()}
    stems = [f"table1-accuracy-{axis}" for axis in ("img_memory", "flops", "ttft")]
    stems += [f"frames-over-layers-{n}" for n in (1, 2)] + [f"frames-by-row-{n}-1" for n in (1, 2)]
    assert names == {"index.html"} | {f"{stem}.{kind}" for stem in stems for kind in ("svg", "png")}


def test_the_page_shows_the_figures_that_are_written(folder: Path, page: Parsed) -> None:
    shown = {
        b64decode(str(attributes["src"]).split(",")[1])
        for tag, attributes in page.elements
        if tag == "img"
    }
    assert shown == {path.read_bytes() for path in (folder / "report").glob("*.svg")}


def test_without_pictures_and_timings_the_page_says_so(recorded: Recorded, tmp_path: Path) -> None:
    results(tmp_path, recorded, pictures=False, timings=False)
    files = write_report(tmp_path, tmp_path / "out")
    assert {path.stem for path in files} == {
        "index",
        "table1-accuracy-img_memory",
        "table1-accuracy-flops",
    }
    words = "".join(Parsed(files[0].read_text()).texts)
    assert "No pictures were recorded" in words
    assert "No attention was recorded." in words
    assert "No row has both an accuracy and the speedup of the time to first token" in words


def test_a_folder_without_an_answer_yet_makes_a_page(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.begin({}, cells(), {SETUP.key(): ["q0"]})
    (page,) = write_report(tmp_path, tmp_path / "out")
    assert "stopped before its end" in page.read_text()
    with Store.open(tmp_path) as store:
        store.begin({}, [])
    (page,) = write_report(tmp_path, tmp_path / "out")
    assert "There are no results yet." in page.read_text()


def test_halves_of_surrogate_pairs_are_no_obstacle(recorded: Recorded, tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        store.begin({}, [("keep_all", replace(cells()[0][1], label="half \ud800"))])
        store.add_many(each for each in answers(recorded[1]) if each.cell == "keep_all")
    page = write_report(tmp_path, tmp_path / "out")[0]
    assert "half ?" in page.read_text(encoding="utf-8")


def test_rows_of_several_seeds_and_setups_are_told_apart(
    recorded: Recorded, tmp_path: Path
) -> None:
    pictures = {(p.cell, p.kind): p for p in recorded[0]}
    other = replace(SETUP, frames=4)
    made = [
        ("a", replace(cells()[0][1], seed=0)),
        ("b", replace(cells()[0][1], seed=1)),
        ("c", replace(cells()[0][1], setup=other)),
    ]
    with Store.open(tmp_path) as store:
        store.begin({}, made)
        store.add_many(replace(pictures["keep_all", "overlay"], cell=key) for key, _ in made)
    page = Parsed(write_report(tmp_path, tmp_path / "out")[0].read_text())
    data = json.loads(page.inside["data"][0])
    named = [(data["samples"][o["sample"]], o["label"]) for o in data["overlays"]]
    assert named == [
        ("q1, frames=None", "keep_all seed=0"),
        ("q1, frames=None", "keep_all seed=1"),
        ("q1, frames=4", "keep_all"),
    ]


def test_what_cannot_be_read_or_written_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"results\.sqlite is missing"):
        write_report(tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written into .*file"):
        write_report(folder, tmp_path / "file")


def test_command_prints_the_files(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "made")])
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "made" / "index.html")
    assert sorted(map(Path, lines)) == sorted((tmp_path / "made").iterdir())
    assert CliRunner().invoke(app, ["report", str(tmp_path / "nothing")]).exit_code == 2


def test_a_page_of_six_questions_and_eight_rows_stays_small() -> None:
    """Frames of natural video take about 8 kB each; their digits do not matter here."""
    image = "data:image/jpeg;base64," + "A" * 11_000
    patches = tuple(
        (f, row, column) for f in range(16) for row in range(12) for column in range(12)
    )
    changes: list[dict[str, Any]] = [
        {
            "layer": layer,
            "reducer": "tome",
            "note": "",
            "after": 2304 - 48 * layer,
            "patches": tuple(range(0, 2304, 24)),
            "owners": tuple(range(1, 2304, 24)),
        }
        for layer in range(24)
    ]
    shots = []
    for number in range(6):
        overlay = Overlay(
            question="q", answer="a", prediction="p", num_layers=32,
            frames=tuple(
                Picture(image=image, seconds=number, rows=12, columns=12) for _ in range(16)
            ),
            patches=patches, changes=changes, tokens_per_layer=(2304,) * 32,
        )  # fmt: skip
        shots += [Shot(f"q{number}", f"row{row}", overlay) for row in range(8)]
    assert len(render_page("t", [], [], shots)) < 4_000_000


def test_tables_keep_their_lines_apart() -> None:
    table = Table(("a", "b"), (False, True), ((("x", "small"), ("1",)),))
    parsed = Parsed(render_page("t", ["s"], [Section("T", (table,))], []))
    assert [a for tag, a in parsed.elements if tag == "td"] == [{}, {"class": "number"}]
    assert [text for text in parsed.texts if text in ("x", "small", "1")] == ["x", "small", "1"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists() and not os.environ.get("CI"):
        pytest.skip(f"{CHROMIUM} is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, headless=True, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def opened(browser: Any, folder: Path) -> Iterator[Any]:
    """Open the page, and check in the end that it neither complained nor asked for anything."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "report" / "index.html").as_uri())
    page.wait_for_function("document.getElementById('counts').textContent")
    yield page
    assert page.evaluate("typeof hacked") == "undefined"
    page.close()
    assert said == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}


def counts_of(trace: Trace, layer: int) -> tuple[int, int, int, int, int]:
    """Read off a trace: tokens, as they were, merged ones, patches in these, dropped ones."""
    events = [event for event in trace.events if event.layer < layer]
    if not events:
        return TOKENS, TOKENS, 0, 0, 0
    tokens, groups = len(events[-1].kept), events[-1].merged
    members = sum(map(len, groups))
    alone = tokens - len(groups)
    return tokens, alone, len(groups), members, TOKENS - alone - members


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_slider_shows_what_the_trace_says(opened: Any, recorded: Recorded, name: str) -> None:
    trace = recorded[1][name]
    opened.get_by_label("sample", exact=True).select_option(label="q1")
    opened.get_by_label("row", exact=True).select_option(
        label=" ".join(label_of(name).replace("\u2028", " ").split())
    )
    slider = opened.get_by_label("decoder layer", exact=True)
    assert slider.get_attribute("max") == str(LAYERS - 1)
    for layer in range(LAYERS):
        slider.fill(str(layer))
        words = opened.locator("#counts").text_content()
        found = tuple(map(int, re.findall(r"\d+", words)))
        tokens, alone, carriers, members, dropped = counts_of(trace, layer)
        assert found == (layer, tokens, TOKENS, alone, carriers, members, dropped)
        assert tokens == trace.tokens_per_layer[0][layer]
        assert slider.get_attribute("aria-valuetext") == (
            f"layer {layer}, {tokens} visual token{'' if tokens == 1 else 's'}"
        )
    assert opened.locator("#question").text_content() == f"what ? {NASTY}"
    assert opened.locator("#prediction").text_content() == f"says {NASTY}"
    assert opened.locator("#reductions li").count() == max(1, len(trace.events))


@pytest.mark.slow
def test_keys_move_the_slider_and_the_patch(opened: Any, recorded: Recorded) -> None:
    opened.get_by_label("row", exact=True).select_option(label="vtw")
    opened.get_by_label("decoder layer", exact=True).focus()
    for _ in range(3):
        opened.keyboard.press("ArrowRight")
    assert opened.locator("#counts").text_content().startswith("Layer 3 works on 0 of 24")
    opened.keyboard.press("Tab")
    while opened.evaluate("document.activeElement.id") != "frames":
        opened.keyboard.press("Tab")
    places = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowUp"):
        opened.keyboard.press(key)
        places.append(opened.locator("#patch").text_content().split(": dropped by vtw after")[0])
    assert places == [
        "frame 0, row 0, column 0",
        "frame 0, row 0, column 1",
        "frame 1, row 0, column 0",
        "frame 1, row 1, column 0",
        "frame 1, row 0, column 0",
    ]


@pytest.mark.slow
def test_pointing_at_a_patch_tells_where_it_went(opened: Any, recorded: Recorded) -> None:
    trace = recorded[1]["tome"]
    (event,) = [event for event in trace.events if event.layer == 0]
    (first, *others) = event.merged[0]
    opened.get_by_label("row", exact=True).select_option(index=2)
    opened.get_by_label("decoder layer", exact=True).fill("1")
    told = set()
    for at in first, others[0]:
        box = opened.evaluate("([f, r, c]) => {"
            "const b = rectangle(shown.clip.patches.findIndex("
            "p => p[0] === f && p[1] === r && p[2] === c));"
            "const a = canvas.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; }", list(at[1:]))  # fmt: skip
        opened.locator("#frames").hover(position={"x": box[0], "y": box[1]})
        told.add(opened.locator("#patch").text_content())
    where = ["frame {}, row {}, column {}".format(*at[1:]) for at in (first, others[0])]
    names = "; ".join("frame {}, row {}, column {}".format(*at[1:]) for at in others)
    plural = "other" if len(others) == 1 else "others"
    assert told == {
        f"{where[0]}: carries {len(others)} {plural}: {names}.",
        f"{where[1]}: merged into {where[0]} by tome after layer 0.",
    }


@pytest.mark.slow
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_of_the_page(opened: Any, width: int, scheme: str) -> None:
    opened.emulate_media(color_scheme=scheme)
    opened.set_viewport_size({"width": width, "height": 900})
    opened.wait_for_timeout(100)
    assert opened.evaluate("document.documentElement.scrollWidth") == width
    ground = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert opened.locator("#frames").bounding_box()["height"] > 200
