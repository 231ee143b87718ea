"""Wording for names that do not exist: the closest one that does, and the whole list."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def closest(name: object, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, or None if none is like it."""
    candidates = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(str(name).lower(), candidates, n=1, cutoff=0.5)
    return candidates[found[0]] if found else None


def suggestion(name: object, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'? Known: x, y.`` for an unknown ``name``."""
    names = list(known)
    near = closest(name, names)
    hint = f"did you mean '{near}'? " if near else ""
    return f"{hint}Known: {', '.join(names) or 'none'}."
