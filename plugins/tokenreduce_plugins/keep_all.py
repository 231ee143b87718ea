"""Keep every token: the baseline of every comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tokenreduce.reducer import Reducer

if TYPE_CHECKING:
    from tokenreduce.plan import Plan
    from tokenreduce.view import View


class KeepAll(Reducer):
    """Remove nothing.

    An ordinary reducer that asks for no layer, so that the full model goes through the same code
    as every method it is compared with, and the cost of the machinery itself is in the baseline.

    Where we differ: there is nothing to differ from; the paper's rows call it the base model.
    """

    name: ClassVar[str] = "keep_all"

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return no layer: it never has to be asked."""
        return ()

    def plan(self, view: View) -> Plan | None:
        """Leave the sample as it is."""
        return None
