"""One ``generate`` call, timed: first token, prefill in it, and each later token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from tokenreduce.measure import Stopwatch

if TYPE_CHECKING:
    from tokenreduce.bench.subject import Subject
    from tokenreduce.reducer import Reducer
    from tokenreduce.trace import Trace


@dataclass(frozen=True, slots=True)
class Sample:
    """Times of one ``generate`` call, in seconds.

    Attributes
    ----------
    ttft
        From the encoded video to the first token, attaching included.
    prefill
        The forward that made it.
    decode
        Median over the later tokens, each from the one before; None if there were none.
    """

    ttft: float
    prefill: float
    decode: float | None

    @property
    def first_token(self) -> float:
        """What :attr:`ttft` holds besides the prefill: attaching, and choosing the token."""
        return self.ttft - self.prefill


class Meter:
    """Marks the moments of one ``generate`` call; ``generate`` takes it for a streamer."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.tokens: list[Any] = []
        self.forwards: list[tuple[Any, Any]] = []
        self._started: Any = None

    def put(self, value: object) -> None:
        """Mark the arrival of the prompt, then of each token."""
        self.tokens.append(self.watch.mark())

    def end(self) -> None:
        """Do nothing: the last token has been marked."""

    def before(self, *_: Any) -> None:
        """Mark the start of a forward."""
        self._started = self.watch.mark()

    def after(self, *_: Any) -> None:
        """Mark the end of a forward."""
        self.forwards.append((self._started, self.watch.mark()))

    def sample(self, start: Any) -> Sample:
        """Return the times of the call that began at ``start``."""
        _, *tokens = self.tokens  # the prompt comes first
        steps = [self.watch.seconds(a, b) for a, b in pairwise(tokens)]
        return Sample(
            ttft=self.watch.seconds(start, tokens[0]),
            prefill=self.watch.seconds(*self.forwards[0]),
            decode=median(steps) if steps else None,
        )


def timed_generate(
    subject: Subject,
    reducers: Sequence[Reducer] | None,
    *,
    decode: int,
    implementation: str | None = None,
    keep: Callable[[Trace], None] | None = None,
) -> Sample:
    """Generate under ``reducers``, and return how long it took.

    Parameters
    ----------
    subject
        Model and inputs.
    reducers
        None: nothing is attached to the model.
    decode
        Tokens to make after the first.
    implementation
        Attention implementation; None: the model's own.
    keep
        Is given the trace, after the clock has stopped.
    """
    watch = Stopwatch(subject.device)
    meter = Meter(watch)
    model = subject.model
    with ExitStack() as stack:
        stack.enter_context(subject.implementation(implementation))
        stack.callback(model.register_forward_pre_hook(meter.before).remove)
        stack.callback(model.register_forward_hook(meter.after).remove)
        watch.wait()
        start = watch.mark()
        run = None
        if reducers is not None:
            run = stack.enter_context(subject.session(reducers).attached())
        model.generate(
            **subject.inputs,
            min_new_tokens=1 + decode,
            max_new_tokens=1 + decode,
            do_sample=False,
            num_beams=1,
            streamer=meter,
        )
        watch.wait()
        if run is not None and keep is not None:
            keep(run.trace)
    return meter.sample(start)
