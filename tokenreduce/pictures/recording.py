"""Makes the documents of picture records: runs the model, keeps what pictures are drawn from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import PrivateAttr

from tokenreduce.errors import UnsupportedError
from tokenreduce.inference import generate
from tokenreduce.pictures.documents import Cell, Levels, Overlay, Picture, changes_of, numbered
from tokenreduce.pictures.images import jpeg_url
from tokenreduce.records import PictureRecord
from tokenreduce.reducer import Needs, Reducer

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.benchmark import Sample
    from tokenreduce.inference import Loaded
    from tokenreduce.layout import Layout
    from tokenreduce.plan import Plan
    from tokenreduce.session import Session
    from tokenreduce.video import Video
    from tokenreduce.view import View


def pictures(
    cell: str,
    loaded: Loaded,
    inputs: Mapping[str, Any],
    video: Video,
    sample: Sample,
    reducers: Sequence[Reducer],
    *,
    seed: int = 0,
    max_new_tokens: int = 16,
) -> Iterator[PictureRecord]:
    """Yield the records of one cell and question, as soon as each is made.

    Parameters
    ----------
    cell
        Key of the cell.
    loaded, inputs, video, sample, reducers, seed, max_new_tokens
        As for :func:`overlay`.
    """
    shot = overlay(
        loaded, inputs, video, sample, reducers, seed=seed, max_new_tokens=max_new_tokens
    )
    yield PictureRecord(cell, sample.id, "overlay", shot)
    yield PictureRecord(cell, sample.id, "levels", levels(loaded, inputs, reducers, seed=seed))


def overlay(
    loaded: Loaded,
    inputs: Mapping[str, Any],
    video: Video,
    sample: Sample,
    reducers: Sequence[Reducer],
    *,
    seed: int = 0,
    max_new_tokens: int = 16,
) -> str:
    """Answer one question, and return the frames with what became of each patch.

    Parameters
    ----------
    loaded
        The model.
    inputs
        Of ``generate``, for one sample.
    video
        The frames that the inputs were made of.
    sample
        The question.
    reducers
        Composed in order; none leaves the model as it is.
    seed
        Of the reducers' random choices.
    max_new_tokens
        Longest answer.

    Returns
    -------
    str
        An :class:`~tokenreduce.pictures.documents.Overlay` as JSON.
    """
    session = loaded.session(reducers, seed)
    with session.attached() as run:
        tokens = generate(loaded, inputs, max_new_tokens)
        trace = run.trace
    cells = _cells(_layout(session))
    patches, panes = numbered(cells)
    return Overlay(
        question=_utf8(sample.question),
        answer=_utf8(sample.answer),
        prediction=_utf8(loaded.decode(tokens, inputs)),
        num_layers=trace.num_layers,
        frames=_pictures(video, patches, len(panes)),
        patches=patches,
        changes=changes_of(trace, cells),
        tokens_per_layer=trace.tokens_per_layer[0],
    ).to_json()


def levels(
    loaded: Loaded, inputs: Mapping[str, Any], reducers: Sequence[Reducer], *, seed: int = 0
) -> str:
    """Run one prefill, and return the attention that each patch receives from the question.

    A layer's attention is that over the tokens which it was given. The last layer, after which
    nobody can be asked, is foreseen from its own norm and projections, on models that allow it;
    layers after which a family allows no reduction are left out.

    Parameters
    ----------
    loaded, inputs, reducers, seed
        As for :func:`overlay`.

    Returns
    -------
    str
        A :class:`~tokenreduce.pictures.documents.Levels` as JSON.
    """
    first = max(0, loaded.adapter.first_layer(loaded.model))
    # In front of the reducers: tokens that they are about to remove were seen by this layer.
    recorder, last = _Recorder(first=first), _LastLayer()
    session = loaded.session([recorder, *reducers, last], seed)
    with session.attached() as run:
        generate(loaded, inputs, 1)
        trace = run.trace
    layout = _layout(session)
    patches, _ = numbered(_cells(layout))
    place = {column: number for number, column in enumerate(_grid_columns(layout))}
    seen = {**recorder.seen, **last.seen}
    # Nobody is asked about a sample without visual tokens: there is nothing in those layers.
    empty = {k for k, tokens in enumerate(trace.tokens_per_layer[0]) if not tokens}
    layers = [k for k in range(first, trace.num_layers) if k in seen or k in empty]
    nothing: tuple[float | None, ...] = (None,) * len(place)
    return Levels(
        num_layers=trace.num_layers,
        layers=tuple(layers),
        patches=patches,
        attention=tuple(_spread(*seen[k], place) if k in seen else nothing for k in layers),
    ).to_json()


class _Recorder(Reducer):
    """Writes down the text's attention after every layer; made for one prefill and thrown away."""

    name: ClassVar[str] = "recorder"

    first: int = 0
    _seen: dict[int, tuple[Tensor, Tensor]] = PrivateAttr(default_factory=dict)

    @property
    def seen(self) -> dict[int, tuple[Tensor, Tensor]]:
        """By layer, positions of the visual tokens and the mean attention that they receive."""
        return self._seen

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return every layer after which a reducer can be asked."""
        return tuple(range(self.first, num_layers - 1))

    def needs(self) -> Needs:
        """Return that it reads the text rows' attention."""
        return Needs(frozenset({"text"}))

    def plan(self, view: View) -> Plan | None:
        """Write down, and leave the sample as it is."""
        self._keep(view.layer, view, view.attention("text"))
        return None

    def _keep(self, layer: int, view: View, weight: Tensor) -> None:
        self._seen[layer] = (view.index.cpu(), weight.cpu() / len(view.text_hidden))


class _LastLayer(_Recorder):
    """Foresees the attention of the last layer over the tokens that all reducers have left."""

    name: ClassVar[str] = "last_layer_recorder"

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the last layer but one."""
        return (num_layers - 2,) if num_layers > 1 else ()

    def needs(self) -> Needs:
        """Return that it asks the next layer."""
        return Needs(frozenset({"text"}), next_layer=True)

    def plan(self, view: View) -> Plan | None:
        """Write down, where the model allows it, and leave the sample as it is."""
        try:
            weight = view.attention("text", layer="next")
        except UnsupportedError:
            return None
        self._keep(view.layer + 1, view, weight)
        return None


def _utf8(text: str) -> str:
    """Replace halves of surrogate pairs, which JSON files can hold and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def _layout(session: Session) -> Layout:
    return session.finished[-1].layout


def _grid_columns(layout: Layout) -> list[int]:
    from tokenreduce.layout import Role

    columns: list[int] = (layout.role[0] == int(Role.GRID)).nonzero().squeeze(1).tolist()
    return columns


def _cells(layout: Layout) -> list[Cell]:
    parts = [getattr(layout, name)[0].tolist() for name in ("item", "frame", "row", "column")]
    return [(parts[0][c], parts[1][c], parts[2][c], parts[3][c]) for c in _grid_columns(layout)]


def _spread(index: Tensor, weight: Tensor, place: Mapping[int, int]) -> tuple[float | None, ...]:
    """Return one value for each patch; three digits are more than a picture shows."""
    row: list[float | None] = [None] * len(place)
    for column, value in zip(index.tolist(), weight.tolist(), strict=True):
        row[place[column]] = float(f"{value:.3g}")
    return tuple(row)


def _pictures(
    video: Video, patches: Sequence[tuple[int, int, int]], panes: int
) -> tuple[Picture, ...]:
    """Return a picture for each frame of the grid; one that pools several frames shows the first.

    A frame cut into tiles that are items of their own is shown once for each of them.
    """
    rows, columns = [0] * panes, [0] * panes
    for frame, row, column in patches:
        rows[frame] = max(rows[frame], row + 1)
        columns[frame] = max(columns[frame], column + 1)
    chosen = [pane * len(video.frames) // panes for pane in range(panes)]
    return tuple(
        Picture(
            image=jpeg_url(video.frames[source]),
            seconds=round(video.timestamps[source], 3),
            rows=rows[pane],
            columns=columns[pane],
        )
        for pane, source in enumerate(chosen)
    )
