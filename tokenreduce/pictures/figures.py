"""What all figures share: one look, no global state, and files that are equal for equal numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; their yellow is
# left out, for it is hardly seen on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
INK, FAINT, GONE = "#333333", "#dddddd", "#b8b8b8"
LONGEST_LABEL = 60  # characters

_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures are the same everywhere
    "font.size": 8.5,
    "svg.hashsalt": "tokenreduce",
    "svg.fonttype": "path",
    "text.parse_math": False,  # a label with dollars is no formula
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
}


@contextmanager
def look() -> Iterator[None]:
    """Use one look inside this block, in which figures are made and saved."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        # A label in a script that the font does not have is drawn as boxes, and no news.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, in inches, that no global list knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Give axes a light grid and no box."""
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def svg(figure: Figure, title: str) -> str:
    """Return a figure as SVG, the same for the same numbers.

    Parameters
    ----------
    figure
        What to write.
    title
        What it shows, for those who cannot see it.
    """
    file = BytesIO()
    metadata = {"Date": None, "Creator": None, "Title": plain(title, None)}
    with look():
        figure.savefig(file, format="svg", metadata=metadata)
    return file.getvalue().decode()


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, 200 dots per inch."""
    file = BytesIO()
    with look():
        figure.savefig(file, format="png", dpi=200, metadata={"Software": None})
    return file.getvalue()


def plain(text: str, longest: int | None = LONGEST_LABEL) -> str:
    """Return a label of one line, of at most so many characters, without those XML cannot have."""
    line = " ".join(text.encode(errors="replace").decode().split())
    line = "".join(sign for sign in line if sign.isprintable())
    if longest is not None and len(line) > longest:
        return line[: longest - 1] + "…"
    return line
