"""Generate under several lists of reducers, computing once what their prefills have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from tokenreduce.errors import UnsupportedError
from tokenreduce.session import Session
from tokenreduce.trace import Trace
from tokenreduce.trace_builder import Finished, build_trace

Result = TypeVar("Result")


class Outcome(NamedTuple, Generic[Result]):
    """What one list of reducers led to: what the call returned, and what its prefill left."""

    result: Result
    finished: Finished

    @property
    def trace(self) -> Trace:
        """The trace of the prefill, built when it is asked for."""
        return build_trace(self.finished)


def run_each(session: Session, call: Callable[[], Result]) -> list[Outcome[Result] | Exception]:
    """Call the model until every variant of a session has its result.

    Each call serves all variants whose plans are equal throughout. The first one runs whole; each
    later one goes on where its variants have parted from others, the latest parting first, so
    that no more states wait than partings on one path.

    Parameters
    ----------
    session
        Not yet attached.
    call
        Runs the model on the same inputs each time: its ``generate``, or a bare forward.

    Returns
    -------
    list
        For each variant its outcome, or what it failed with; one's failure is not the others'.
    """
    found: dict[int, Outcome[Result] | Exception] = {}
    running = set(range(len(session.variants)))
    with session.attached():
        while running:
            failure: Exception | None = None
            try:
                result = call()
            except Exception as error:
                failure = error
            else:
                found |= {f.variant: Outcome(result, f) for f in session.finished}
            session.finished.clear()
            found |= session.errors
            parted = {number for branch in session.branches for number in branch.variants}
            for number in running - parted - found.keys():
                found[number] = failure or UnsupportedError(
                    "no prefill with visual tokens has run, so there is nothing to reduce."
                )
            if not session.branches:
                break
            branch = session.branches.pop()
            running = set(branch.variants)
            session.resume(branch)
    return [found[number] for number in range(len(session.variants))]
