"""Where one prefill's time goes: layers, scoring, planning, applying.

These runs are apart from the timed ones, for every mark waits for the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenreduce.bench.pattern import Pattern, seen_by
from tokenreduce.measure import Stopwatch

if TYPE_CHECKING:
    from tokenreduce.bench.subject import Subject
    from tokenreduce.reducer import Reducer
    from tokenreduce.session import Run
    from tokenreduce.trace import Trace


@dataclass(frozen=True, slots=True)
class Phases:
    """Seconds of one prefill; the parts add up to the whole.

    Attributes
    ----------
    total
        The forward.
    layers
        Each decoder layer by itself, scoring taken out.
    tokens
        Tokens that each layer ran over.
    scoring
        Taking queries and keys, and what reducers read of the view.
    plan
        The reducers' decisions, scoring taken out.
    apply
        Everything else between the layers: rows, positions and masks of what is left.
    """

    total: float
    layers: tuple[float, ...]
    tokens: tuple[int, ...]
    scoring: float
    plan: float
    apply: float

    @property
    def rest(self) -> float:
        """Embeddings, mask, final norm and language head."""
        return self.total - sum(self.layers) - self.overhead

    @property
    def overhead(self) -> float:
        """Scoring, planning and applying together."""
        return self.scoring + self.plan + self.apply


class Clock:
    """Adds up the time of what runs under it; what runs inside counts once, where it is."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._open: list[tuple[str, Any, float]] = []

    def enter(self, name: str) -> None:
        """Begin what is called ``name``."""
        self.watch.wait()
        self._open.append((name, self.watch.mark(), 0.0))

    def leave(self) -> None:
        """End what was begun last."""
        self.watch.wait()
        name, start, inside = self._open.pop()
        seconds = self.watch.seconds(start, self.watch.mark())
        self.spent[name] += seconds - inside
        if self._open:
            outer, since, already = self._open[-1]
            self._open[-1] = (outer, since, already + seconds)

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        """Run ``call`` under ``name``, and return its result."""
        self.enter(name)
        made = call()
        self.leave()
        return made


def profile_prefill(
    subject: Subject,
    reducers: Sequence[Reducer] | None,
    pattern: Pattern,
    keep: Callable[[Trace], None] | None = None,
) -> Phases:
    """Run one prefill, and say where its time went.

    Parameters
    ----------
    subject
        Model and inputs.
    reducers
        None: nothing is attached to the model.
    pattern
        What attention the reducers see.
    keep
        Is given the trace.
    """
    clock = Clock(Stopwatch(subject.device))
    decoder: Any = subject.adapter.decoder(subject.model)
    layers = decoder.layers
    tokens: list[int] = []
    run: Run | None = None
    with ExitStack() as stack:

        def hook(register: Callable[..., Any], function: Callable[..., None]) -> None:
            stack.callback(register(lambda *_: function(*_)).remove)

        def layer_starts(layer: Any, inputs: tuple[Any, ...]) -> None:
            clock.leave()
            tokens.append(int(inputs[0].shape[1]))
            clock.enter(f"layer {len(tokens) - 1}")

        # Hooks run in the order of their registration: the session's are between ours.
        hook(subject.model.register_forward_pre_hook, lambda *_: clock.enter("rest"))
        for layer in layers:
            hook(layer.register_forward_pre_hook, lambda *_: clock.enter("apply"))
        if reducers is not None:
            session: Any = subject.session([seen_by(r, pattern, clock.around) for r in reducers])
            saw = session.probe.saw
            session.probe.saw = lambda *args: clock.around("scoring", lambda: saw(*args))
            run = stack.enter_context(session.attached())
        for layer in layers:
            hook(layer.register_forward_pre_hook, layer_starts)
            hook(layer.register_forward_hook, lambda *_: clock.leave())
        hook(subject.model.register_forward_hook, lambda *_: clock.leave())
        prefill(subject)
    if run is not None and keep is not None:
        keep(run.trace)
    spent = clock.spent
    spent.pop("pattern", None)  # no part of what is timed
    own = [spent[f"layer {index}"] for index in range(len(layers))]
    return Phases(
        total=sum(spent.values()),
        layers=tuple(own),
        tokens=tuple(tokens),
        scoring=spent["scoring"],
        plan=spent["plan"],
        apply=spent["apply"],
    )


def prefill(subject: Subject) -> None:
    """Run the forward that makes the first token, as ``generate`` does."""
    subject.model.generate(
        **subject.inputs, max_new_tokens=1, min_new_tokens=1, do_sample=False, num_beams=1
    )
