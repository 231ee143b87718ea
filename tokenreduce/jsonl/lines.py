"""Lines of a file of JSON objects, whatever it holds: each is an object, or a fault."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tokenreduce.errors import ConfigError
from tokenreduce.problems import shown

MAX_LINE = 1 << 20
"""Most bytes of a line: none longer is held in memory."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """What is wrong with a line, counted from 1."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


def read_lines(file: Path) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    """Yield number and content of each line that is not blank.

    Raises
    ------
    ConfigError
        If the file cannot be read.
    """
    try:
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE + 1):
                number += 1
                too_long = len(line) > MAX_LINE
                while not line.endswith(b"\n") and too_long and (rest := stream.readline(MAX_LINE)):
                    line = rest
                if too_long:
                    yield number, Fault(number, f"is longer than {MAX_LINE} bytes.")
                elif line.strip():
                    yield number, _parsed(number, line)
    except (OSError, ValueError) as error:  # a name with a NUL byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{shown(str(file))} cannot be read ({reason}): give a file with one question a line."
        ) from error


def _parsed(number: int, line: bytes) -> dict[str, Any] | Fault:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        value = _json(line)
    except _LineError as error:
        return Fault(number, str(error))
    if not isinstance(value, dict):
        return Fault(number, f"{shown(value)} is no JSON object: write {{...}}.")
    return value


class _LineError(Exception):
    """What is wrong with a line, in words."""


def _json(line: bytes) -> Any:
    if (position := line.find(b"\0")) >= 0:
        raise _LineError(f"holds a NUL byte at byte {position + 1}.")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _LineError(
            f"is not UTF-8: byte {error.start + 1} is 0x{line[error.start]:02x}."
        ) from None
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise _LineError(f"is not JSON: {error.msg} at column {error.colno}.") from None
    except RecursionError:
        raise _LineError("is not read: it is nested too deep.") from None
    except ValueError:  # of Python's limit on the digits of an integer
        raise _LineError("is not read: it holds a number of thousands of digits.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _LineError(f"has the key {shown(twice)} more than once.")
    return made


def _no_constant(name: str) -> NoReturn:
    raise _LineError(f"is not JSON: {name} is no number.")
