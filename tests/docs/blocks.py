"""Fenced code blocks of the documentation, with the reasons of those that are not run."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^ *```(\w*)$")
NOT_RUN = re.compile(r"^ *<!-- not run: (\S.*) -->$")


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; ``line`` is that of its first line of code."""

    language: str
    code: str
    line: int
    not_run: str | None


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    found: list[Block] = []
    lines = text.splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        fence = FENCE.match(line)
        if fence is None:
            continue
        if opened is None:
            opened, language = number, fence[1]
            continue
        before = next((each for each in reversed(lines[:opened]) if each.strip()), "")
        reason = NOT_RUN.match(before)
        code = textwrap.dedent("\n".join(lines[opened + 1 : number]) + "\n")
        found.append(Block(language, code, opened + 2, reason[1] if reason else None))
        opened = None
    assert opened is None, f"the block that opens at line {opened} is never closed"
    return found


def page_id(page: Path) -> str:
    """Return a page's path in the repository, for the names of tests."""
    return page.relative_to(ROOT).as_posix()
