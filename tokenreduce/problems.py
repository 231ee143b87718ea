"""All errors of a configuration at once, each with its path, value and the nearest valid name."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tokenreduce.errors import ConfigError
from tokenreduce.names import suggestion

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
"""Keys and list indices that lead to a value."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: where, and what about it."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{'.'.join(map(_step, self.path)) or 'configuration'}: {self.message}"


@dataclass(slots=True)
class Report:
    """The problems found so far."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, path: Sequence[str | int], message: str) -> None:
        """Remember a problem, once."""
        problem = Problem(tuple(path), message)
        if problem not in self.problems:
            self.problems.append(problem)

    def take(self, other: Report, *, besides: Collection[Path] = ()) -> None:
        """Add the problems of another report, but for those at or below the paths ``besides``."""
        for problem in other.problems:
            if not any(problem.path[: len(path)] == path for path in besides):
                self.add(problem.path, problem.message)

    def has(self, key: str) -> bool:
        """Return whether a problem was found at or below a top-level key."""
        return any(problem.path[:1] == (key,) for problem in self.problems)

    def raise_if_any(self, source: str) -> None:
        """Raise :class:`ConfigError` with a line for each problem, if there is one."""
        if not self.problems:
            return
        count = f"{len(self.problems)} errors" if len(self.problems) > 1 else "1 error"
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        raise ConfigError(f"{count} in {source}:\n{lines}")


def build(
    cls: type[Model],
    values: Mapping[str, Any],
    path: Path,
    report: Report,
    *,
    known: Collection[str] | None = None,
) -> Model | None:
    """Return ``cls`` made from ``values``, or None after reporting what is wrong with them.

    Parameters
    ----------
    cls
        Model to make.
    values
        Its settings as they were written.
    path
        Where they stand in the configuration.
    report
        Collects the problems.
    known
        Valid names of settings, where they are more than the model's own.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        for place, details in _by_place(error, values).items():
            top = known if known is not None and len(place) == 1 else None
            names = setting_names(_model_at(cls, place)) if top is None else top
            report.add((*path, *place), _message(details, names))
        return None


def setting_names(cls: type[BaseModel]) -> list[str]:
    """Return the names that settings of ``cls`` have in YAML."""
    return list(cls.model_fields)


def shown(value: object, limit: int = 60) -> str:
    """Return ``value`` for an error message, shortened."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _step(part: str | int) -> str:
    """Return a part of a path: a key of a file, which may hold anything."""
    text = str(part)
    return text if text.isprintable() and len(text) <= 60 else shown(text)


def sweeps(node: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every ``{sweep: ...}`` in ``node``, whose own path is ``path``."""
    if is_sweep(node):
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from sweeps(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from sweeps(value, (*path, index))


def is_sweep(node: Any) -> bool:
    """Return whether a value is swept: a mapping with the key ``sweep`` alone."""
    return isinstance(node, dict) and set(node) == {"sweep"}


def _by_place(error: ValidationError, values: Any) -> dict[Path, list[ErrorDetails]]:
    # A union reports one error for each member; in YAML they are all about one value.
    places: dict[Path, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        place = _place(details, values)
        places.setdefault(place, []).append(details)
    return places


def _place(details: ErrorDetails, values: Any) -> Path:
    node, place = values, []
    location = details["loc"]
    for position, part in enumerate(location):
        inside = isinstance(node, dict) and part in node
        inside = inside or (isinstance(node, list) and isinstance(part, int) and part < len(node))
        if inside:
            node = node[part]
        elif details["type"] != "missing" or position < len(location) - 1:
            continue  # the name of a union's member
        place.append(part)
    return tuple(place)


def _model_at(cls: type[BaseModel], place: Path) -> type[BaseModel]:
    for part in place[:-1]:
        field_info = cls.model_fields.get(str(part))
        inner = field_info.annotation if field_info else None
        for member in (inner, *get_args(inner)):  # of `Timing | None`, say
            if isinstance(member, type) and issubclass(member, BaseModel):
                cls = member
    return cls


def _message(errors: Sequence[ErrorDetails], names: Collection[str]) -> str:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        hint = suggestion(first["loc"][-1], names)
        return f"there is no such setting ({shown(first['input'])}): {hint}"
    if first["type"] == "missing":
        return "is missing."
    if first["type"] == "literal_error":
        expected = first.get("ctx", {}).get("expected", "")
        options = [part.strip("' ") for part in expected.replace(" or ", ", ").split(", ")]
        return f"{shown(first['input'])} is not valid: {suggestion(first['input'], options)}"
    wants = "; or ".join(dict.fromkeys(_words(details) for details in errors))
    return f"{shown(first['input'])} is not valid: {wants}."


def _words(details: ErrorDetails) -> str:
    if details["type"] == "too_short":
        return f"it needs at least {details['ctx']['min_length']}"
    text = details["msg"].removeprefix("Value error, ").removeprefix("Input ").rstrip(".")
    return text.partition(", unable to parse")[0]
