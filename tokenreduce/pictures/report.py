"""From a folder of results to a folder with a page and its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table as RichTable

from tokenreduce.errors import ConfigError
from tokenreduce.labels import value_text
from tokenreduce.pictures.attention import frames_by_row, frames_over_layers
from tokenreduce.pictures.documents import Levels, Overlay, read_document
from tokenreduce.pictures.figures import png, svg
from tokenreduce.pictures.page import Section, Shot, Shown, Table, render_page
from tokenreduce.pictures.tradeoff import AXES, DIRECT, Point, tradeoff
from tokenreduce.results import Results
from tokenreduce.results.grouping import TableCells, group, varied
from tokenreduce.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tokenreduce.report import Report, Row

PAGE = "index.html"
PANELS = 12  # rows in one figure of attention, the unreduced one among them
_WIDE = 100_000  # characters: on a page no table has to be cut into several
_MEASURES = {
    "img_memory": "Img-Memory",
    "flops": "FLOPs of the prefill",
    "ttft_speedup": "the speedup of the time to first token",
}


@dataclass(slots=True)
class _Asked:
    """One question under the rows of one table; rows to documents."""

    name: str
    overlays: dict[str, Overlay] = field(default_factory=dict)
    levels: dict[str, Levels] = field(default_factory=dict)


@dataclass(slots=True)
class _Figures:
    """Writes figures into a folder as they are made.

    Attributes
    ----------
    folder
        Where they go.
    written
        Their files so far.
    """

    folder: Path
    written: list[Path] = field(default_factory=list)

    def add(self, figure: Figure, name: str, caption: str, *, wide: bool = False) -> Shown:
        """Write a figure as SVG and PNG, and return it for the page."""
        text = svg(figure, caption)
        for suffix, data in (("svg", text.encode(errors="replace")), ("png", png(figure))):
            path = self.folder / f"{name}.{suffix}"
            path.write_bytes(data)
            self.written.append(path)
        return Shown(text, caption, wide)


def write_report(folder: Path, out: Path) -> list[Path]:
    """Write a page and figures about the results of a folder, finished or not.

    Parameters
    ----------
    folder
        Of the results.
    out
        Folder for the files; it is made, and files of an earlier report are replaced.

    Returns
    -------
    list of Path
        The page, then the figures.

    Raises
    ------
    ConfigError
        If there are no results, or the files cannot be written.
    """
    with Store.read(folder) as store:
        results = Results(store)
        with store.snapshot():
            families = {cell.label: cell.row for _, cell in store.cells()}
            asked = _asked(store)
    try:
        out.mkdir(parents=True, exist_ok=True)
        figures = _Figures(out)
        sections = [
            *(_table(report, families, n, figures) for n, report in enumerate(results.tables, 1)),
            _attention(asked, figures),
        ]
        page = out / PAGE
        # Half a surrogate pair, which a question may hold, is no UTF-8.
        page.write_text(_page(results, sections, asked), encoding="utf-8", errors="replace")
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written into {out} ({error.strerror or error}): "
            "give another folder."
        ) from error
    return [page, *figures.written]


def _asked(store: Store) -> list[_Asked]:
    """Return the questions that pictures were recorded of, table by table."""
    tables = group(store.cells())
    details = varied(tables)
    found: dict[str, _Asked] = {}
    for table in tables:
        settings = table.settings()
        where = [f"{name}={value_text(settings[name])}" for name in details]
        for label, key, seed in _rows(table):
            row = label if seed is None else f"{label} seed={seed}"
            for record in store.pictures(key):
                name = ", ".join([record.sample, *where])
                asked = found.setdefault(name, _Asked(name))
                place = f"{store.path}, the picture of '{record.sample}' under '{label}'"
                if record.kind == "overlay":
                    asked.overlays[row] = read_document(Overlay, record.document, place)
                elif record.kind == "levels":
                    asked.levels[row] = read_document(Levels, record.document, place)
    return list(found.values())


def _rows(table: TableCells) -> Iterator[tuple[str, str, int | None]]:
    """Yield label, key and, where it takes several to tell them apart, seed of each cell."""
    for label, cells in table.rows.items():
        for key, cell in cells:
            yield label, key, cell.seed if len(cells) > 1 else None


def _table(report: Report, families: Mapping[str, str], number: int, figures: _Figures) -> Section:
    """Return what a report prints, as a section, with its figures."""
    title, *tables, notes = report.tables(_WIDE)
    drawn, missing = [], []
    for key, axis in AXES.items():
        points = _points(report.rows, key, families)
        if not points:
            missing.append(f"No row has both an accuracy and {_MEASURES[key]}: that is not drawn.")
            continue
        caption = f"Accuracy against {_MEASURES[key]}"
        name = f"table{number}-accuracy-{axis.name}"
        figure = tradeoff(points, axis, str(title))
        drawn.append(figures.add(figure, name, caption, wide=len(points) > DIRECT))
    return Section(
        title=str(title),
        tables=tuple(_words(table) for table in tables if isinstance(table, RichTable)),
        sentences=(*str(notes).split("\n"), *missing),
        figures=tuple(drawn),
    )


def _words(table: RichTable) -> Table:
    """Return a table of the terminal as words."""
    columns = [[tuple(str(cell).split("\n")) for cell in column.cells] for column in table.columns]
    return Table(
        headings=tuple(str(column.header) for column in table.columns),
        numbers=tuple(column.justify == "right" for column in table.columns),
        rows=tuple(zip(*columns, strict=True)),
    )


def _points(rows: Sequence[Row], measure: str, families: Mapping[str, str]) -> list[Point]:
    """Return the rows that have both numbers."""
    fields = {"flops": "flops_ratio"}
    points = []
    for row in rows:
        cost = getattr(row, fields.get(measure, measure))
        if cost is not None and row.accuracy is not None:
            points.append(
                Point(
                    label=row.label,
                    family=families.get(row.label, row.label),
                    cost=cost,
                    accuracy=row.accuracy,
                    cost_interval=row.ttft_interval if measure == "ttft_speedup" else None,
                    accuracy_interval=row.accuracy_interval,
                )
            )
    return points


def _attention(asked: Sequence[_Asked], figures: _Figures) -> Section:
    """Return the figures of where the questions look."""
    over_layers: list[Shown] = []
    by_row: list[Shown] = []
    for each in asked:
        known = {row: levels for row, levels in each.levels.items() if levels.layers}
        if not known:
            continue
        number = len(over_layers) + 1
        first, full = next(iter(known.items()))
        title = f"{each.name}, {first}"
        over_layers.append(
            figures.add(
                frames_over_layers(full, title),
                f"frames-over-layers-{number}",
                f"{title}: attention to frames over layers",
            )
        )
        for part, panels in enumerate(_parts(known), 1):
            by_row.append(
                figures.add(
                    frames_by_row(panels, each.name),
                    f"frames-by-row-{number}-{part}",
                    f"{each.name}: attention by frame and layer, removed parts grey",
                    wide=len(panels) > 2,
                )
            )
    sentences = (
        "How much of a text token's attention goes to the frames: mean over heads and over the "
        "text after the video, summed over the visual tokens of a frame on the left and over "
        "their number elsewhere. Each layer is shown with the tokens that it worked on.",
    )
    drawn = (*over_layers, *by_row)
    if not drawn:
        sentences = ("No attention was recorded.",)
    return Section("Where the questions look", sentences=sentences, figures=drawn)


def _parts(levels: Mapping[str, Levels]) -> Iterator[dict[str, Levels]]:
    """Yield so many rows at a time as one figure holds, the first of all always in front."""
    (first, full), *others = levels.items()
    for start in range(0, max(1, len(others)), PANELS - 1):
        yield {first: full, **dict(others[start : start + PANELS - 1])}


def _page(results: Results, sections: Sequence[Section], asked: Sequence[_Asked]) -> str:
    shots = [Shot(each.name, row, one) for each in asked for row, one in each.overlays.items()]
    named = dict.fromkeys(f"{report.model} on {report.benchmark}" for report in results.tables)
    sentences = []
    if not results.tables:
        sentences.append("There are no results yet.")
    elif not results.finished:
        sentences.append("The work was stopped before its end: not every question was asked.")
    if results.failed:
        sentences.append(f"{results.failed} questions failed; the rows say how many of theirs.")
    return render_page(", ".join(named) or "tokenreduce", sentences, sections, shots)
