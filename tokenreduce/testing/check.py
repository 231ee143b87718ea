"""What a check is: a plain function that raises, and when it applies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenreduce.errors import ConformanceError


def always(subject: Any) -> bool:
    """Return true: the check is for everybody."""
    return True


@dataclass(frozen=True, slots=True)
class Check:
    """One property of an interface.

    Attributes
    ----------
    function
        Takes what is checked; raises if the property does not hold. Its name is the check's name,
        its docstring's first line what is required.
    applies
        Whether it is required of a given subject, by what that declares.
    """

    function: Callable[[Any], None]
    applies: Callable[[Any], bool] = always

    @property
    def name(self) -> str:
        """Name of the check, as in ``expected_failures``."""
        return self.function.__name__


def require(holds: object, message: str) -> None:
    """Raise :class:`ConformanceError` with ``message`` unless ``holds``.

    Not ``assert``: that says nothing outside pytest, and is gone under ``python -O``.
    """
    if not holds:
        raise ConformanceError(message)
