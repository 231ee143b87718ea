"""What every command needs: plugins, exit codes for errors, and a progress bar."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from tokenreduce.errors import CacheError, ReducerError, TokenReduceError

if TYPE_CHECKING:
    from tokenreduce.benchmark import Progress
    from tokenreduce.config import Classes, PluginSettings
    from tokenreduce.engines import Status
    from tokenreduce.plugins import PluginManager

WORK_FAILED, BAD_REQUEST, INTERRUPTED = 1, 2, 130

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Change one setting; may be repeated."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only print the cells and what they would cost.")
]
EngineName = Annotated[
    str, typer.Option(metavar="NAME", help="local: processes on this machine; ray: a cluster.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Ask questions again that failed before.")
]


@dataclass(frozen=True, slots=True)
class Options:
    """Global options, which every command reads."""

    block: tuple[str, ...] = ()
    strict: bool = False

    def load(self, settings: PluginSettings | None = None) -> PluginManager:
        """Load the plugins that neither the command line nor the configuration blocks."""
        from tokenreduce.plugins import load_plugins

        block = (*self.block, *(settings.block if settings else ()))
        strict = self.strict or (settings is not None and settings.strict)
        return load_plugins(block=block, strict=strict)


class Commands(typer.core.TyperGroup):
    """The commands; errors raised on purpose become one message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except TokenReduceError as error:
            typer.echo(f"tokenreduce: {error}", err=True)
            # Only a reducer that misbehaves is not the request's fault.
            failed = isinstance(error, ReducerError | CacheError)
            raise typer.Exit(WORK_FAILED if failed else BAD_REQUEST) from error
        except KeyboardInterrupt:
            typer.echo("tokenreduce: interrupted.", err=True)
            raise typer.Exit(INTERRUPTED) from None


def class_names(manager: PluginManager) -> Classes:
    """Return the classes that names in a configuration stand for."""
    from tokenreduce.config import Classes

    return Classes(manager.registry.reducers, manager.registry.benchmarks)


def prepare_libraries(model: str) -> None:
    """Set up torch and transformers for ``model``, through the environment: before their import."""
    from tokenreduce.config import EMBEDDED_MODEL

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if model == EMBEDDED_MODEL:
        # A second thread gains nothing on so small a model; on a busy machine it costs a lot.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@contextmanager
def progress_bar(first: str = "loading the model") -> Iterator[Progress]:
    """Show a bar on stderr, and give the function that moves it; ``first`` is what comes first."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(first, total=None)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield tell


@contextmanager
def grid_progress() -> Iterator[Callable[[str, Status], None]]:
    """Show bars on stderr, one for each kind of work of a grid, and give what moves them."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[failed]} failed"),
        progress.TextColumn("{task.fields[rate]:.1f}/s"),
        progress.TimeRemainingColumn(compact=True),
    )
    begun: dict[str, tuple[progress.TaskID, float]] = {}
    # Estimates over a few minutes: questions about one video come in bursts.
    with progress.Progress(
        *columns, console=Console(stderr=True), speed_estimate_period=300
    ) as bar:

        def tell(what: str, status: Status) -> None:
            if what not in begun:
                task = bar.add_task(what, total=status.total, failed=0, rate=0.0)
                begun[what] = task, monotonic()
            task, start = begun[what]
            rate = status.done / max(monotonic() - start, 1e-3)
            bar.update(
                task, completed=status.done, total=status.total, failed=status.failed, rate=rate
            )

        yield tell
