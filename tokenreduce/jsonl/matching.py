"""When an answer counts as right: named rules for open answers, and one for options."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

Options = Sequence[tuple[str, str]]
"""Label and text of each choice, in order."""

ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)

GREATER = (
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
    *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
    *("dozen", "hundred", "thousand", "million", "billion"),
)
"""Number words that are not read: what they are part of is a number, and no answer's."""

PLAIN = str.maketrans({"\u2019": "'", "\u2212": "-"})
"""Apostrophe and minus as they are typed."""

_WORD = re.compile(r"(?<!\w)-\d+(?:\.\d+)*|\d+(?:\.\d+)+|[^\W_]+(?:'[^\W_]+)*")
_DIGITS = r"(?<![\w.])-?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)(?!\d|\.\d)"
_SPELLED = r"\b(?:" + "|".join(NUMBERS + GREATER) + r")\b"
_NUMBER = re.compile(rf"(?:{_DIGITS}|{_SPELLED})(?:[\s-]+{_SPELLED})*", re.IGNORECASE)
_DENIAL = r"\b(?:no|not|never|neither|nor|cannot|wrong|incorrect)\b|n't\b"


def exact(answer: str, prediction: str) -> bool:
    """Tell whether the characters are the same, but for space around them."""
    return prediction.strip() == answer.strip()


def same_words(answer: str, prediction: str) -> bool:
    """Tell whether the words are the same, whatever their case, punctuation and articles."""
    return bool(words_of(answer)) and words_of(prediction) == words_of(answer)


def contains(answer: str, prediction: str) -> bool:
    """Tell whether the answer's words, as by `words`, stand side by side in the prediction."""
    wanted, said = words_of(answer), words_of(prediction)
    starts = range(len(said) - len(wanted) + 1)
    return bool(wanted) and any(said[start : start + len(wanted)] == wanted for start in starts)


def number(answer: str, prediction: str) -> bool:
    """Tell whether the first number said, in digits or a word up to twelve, is the answer's."""
    wanted, said = numbers_of(answer), numbers_of(prediction)
    return bool(wanted) and said[:1] == wanted[:1]


RULES: Mapping[str, Callable[[str, str], bool]] = MappingProxyType(
    {"words": same_words, "exact": exact, "contains": contains, "number": number}
)
"""Rules for open answers by name; each is called with the right answer and the prediction."""


def words_of(text: str) -> list[str]:
    """Return words in lower case, without punctuation and, unless there is nothing else, articles.

    A decimal number and one with a sign is one word.
    """
    found = _WORD.findall(_plain(text).casefold())
    return [word for word in found if word not in ARTICLES] or found


def numbers_of(text: str) -> list[Decimal]:
    """Return the numbers in a text, exactly; commas between groups of three digits are dropped.

    One with a word that is not read (``thirty-three``, ``2 hundred``) is not a number of its parts
    but NaN, which equals nothing.
    """
    return [_value(found) for found in _NUMBER.findall(_plain(text))]


def _value(written: str) -> Decimal:
    if written.lower() in NUMBERS:
        return Decimal(NUMBERS.index(written.lower()))
    digits = re.fullmatch(_DIGITS, written)
    return Decimal(written.replace(",", "")) if digits else Decimal("NaN")


def _plain(text: str) -> str:
    """Return a text in the characters that are compared."""
    return unicodedata.normalize("NFKC", text).translate(PLAIN)


def unusable(rule: str, answer: str) -> str | None:
    """Return why no prediction can match ``answer`` by a rule; None where one can."""
    if rule in ("words", "contains") and not words_of(answer):
        return f"{answer!r} holds no word, which the matching rule '{rule}' compares."
    if rule == "number" and [number.is_nan() for number in numbers_of(answer)] != [False]:
        return f"{answer!r} holds no single number, which the matching rule 'number' compares."
    return None


def chosen(options: Options, prediction: str) -> str | None:
    """Return the label of the option that a prediction names; None if it names none.

    In this order: nothing but a label (``B``, ``(b)``); a label, punctuation or a line break, and
    anything (``B. red``, ``(B) red``) but a list of labels; a label after the word answer, option
    or choice, with no denial before it (``The answer is B.``, ``Answer: (B) red``); nothing but an
    option's text, as by :func:`with_text`.
    """
    labels = [label for label, _ in options]
    said = _plain(prediction).strip()
    for pattern in _patterns("|".join(map(re.escape, labels))):
        found = re.fullmatch(pattern, said, re.IGNORECASE | re.DOTALL)
        if found:
            return _with_case(found["label"], labels)
    same = with_text(options, prediction)
    return same[0] if len(same) == 1 else None


def with_text(options: Options, said: str) -> list[str]:
    """Return the labels of the options with a text, whatever its case, or else with its words."""
    wanted = said.strip().casefold()
    same = [label for label, text in options if text.strip().casefold() == wanted]
    return same or [label for label, text in options if same_words(text, said)]


def _patterns(known: str) -> tuple[str, ...]:
    """Return how a label may be named; ``known`` are the labels, as alternatives of a pattern."""
    label = f"(?P<label>{known})"
    # "B or C" names none, and neither does the list of the options said again.
    alone = (
        rf"(?![^\w.]*(?:or|and)\W+(?:{known})(?!\s*\w))"
        rf"(?![^\n]*\n\W*(?!(?P=label)\b)(?:{known})(?:[.):\]]|\s*(?:\n|\Z)))"
    )
    clause = rf"(?:.*[.,;:!?\n])?(?:(?!{_DENIAL})[^.,;:!?\n])*"
    word = r"\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*"
    return (
        rf"\W*{label}\W*",
        rf"[(\[*]*{label}{alone}[*]*(?:[.):\]]+[*]*(?:\s.*)?|[ \t]*\n.*)",
        rf"{clause}{word}[(\[*]*{label}{alone}(?:[)\]*:]+(?:\s.*)?|[)\]*:]*[.,;\n].*)?",
    )


def _with_case(said: str, labels: Sequence[str]) -> str:
    """Return the label as it is written; labels differ by more than their case."""
    return next(label for label in labels if label.casefold() == said.casefold())
