"""The report as one HTML file: it loads nothing, and takes no string from outside for markup."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Any

from tokenreduce.pictures.documents import Overlay


@dataclass(frozen=True, slots=True)
class Table:
    """A table of words.

    Attributes
    ----------
    headings
        Of the columns.
    numbers
        For each column whether it holds numbers, which are set to the right.
    rows
        For each row its cells, for each cell its lines; all but the first are small print.
    """

    headings: tuple[str, ...]
    numbers: tuple[bool, ...]
    rows: tuple[tuple[tuple[str, ...], ...], ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure as it stands in the page.

    Attributes
    ----------
    svg
        The figure.
    caption
        What it shows, in words.
    wide
        Whether it needs the whole width of the page.
    """

    svg: str
    caption: str
    wide: bool = False

    @property
    def url(self) -> str:
        """As an image: scripts and names within it stay within it."""
        return "data:image/svg+xml;base64," + b64encode(self.svg.encode()).decode()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: its tables, what is said about them, and its figures, in this order."""

    title: str
    tables: tuple[Table, ...] = ()
    sentences: tuple[str, ...] = ()
    figures: tuple[Shown, ...] = ()


@dataclass(frozen=True, slots=True)
class Shot:
    """One recorded overlay: of which question, and under which row of a table."""

    sample: str
    label: str
    overlay: Overlay


def render_page(
    title: str, sentences: Sequence[str], sections: Sequence[Section], shots: Sequence[Shot]
) -> str:
    """Return the page.

    Parameters
    ----------
    title, sentences
        What it begins with.
    sections
        Tables and figures, in order.
    shots
        Overlays for the viewer; none leaves it out.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style, script = _shipped("style.css"), _shipped("viewer.js")
    return environment.from_string(_shipped("page.html.jinja")).render(
        title=title,
        sentences=sentences,
        sections=sections,
        overlays=bool(shots),
        policy=_policy(style, script),
        # Our own files, and JSON in which nothing can end the element that it stands in.
        style=Markup(style),
        script=Markup(script),
        data=Markup(script_json(_viewer_data(shots))),
    )


def script_json(value: Any) -> str:
    """Return JSON that may stand in a script element, whatever strings are in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))  # ASCII: U+2028 is escaped
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _viewer_data(shots: Sequence[Shot]) -> dict[str, Any]:
    """Return what the viewer reads; frames that several rows share are there once."""
    samples = list(dict.fromkeys(shot.sample for shot in shots))
    clips: dict[tuple[Any, Any], int] = {}
    overlays = []
    for shot in shots:
        overlay = shot.overlay
        clip = clips.setdefault((overlay.frames, overlay.patches), len(clips))
        overlays.append(
            {
                "sample": samples.index(shot.sample),
                "label": shot.label,
                "clip": clip,
                "question": overlay.question,
                "answer": overlay.answer,
                "prediction": overlay.prediction,
                "layers": overlay.num_layers,
                "changes": [change.model_dump() for change in overlay.changes],
            }
        )
    return {
        "samples": samples,
        "clips": [
            {"frames": [frame.model_dump() for frame in frames], "patches": patches}
            for frames, patches in clips
        ],
        "overlays": overlays,
    }


def _policy(style: str, script: str) -> str:
    """Allow the page's own style and script by their digests, images within it, and no more."""
    digests = [b64encode(sha256(text.encode()).digest()).decode() for text in (style, script)]
    return (
        f"default-src 'none'; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _shipped(name: str) -> str:
    file = resources.files("tokenreduce") / "data" / "report" / name
    return file.read_text(encoding="utf-8")
