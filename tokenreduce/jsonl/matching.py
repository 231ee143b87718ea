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

_WORD = re.compile(r"(?<!\w)-\d+(?:\.\d+)*|\d+(?:\.\d+)+|[^\W_]+(?:['\u2019][^\W_]+)*")
_NUMBER = re.compile(
    r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\d|\.\d)|\b(?:"
    + "|".join(NUMBERS)
    + r")\b",
    re.IGNORECASE,
)


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
    found = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return [word for word in found if word not in ARTICLES] or found


def numbers_of(text: str) -> list[Decimal]:
    """Return the numbers in a text, exactly; commas between groups of three digits are dropped."""
    found = _NUMBER.findall(unicodedata.normalize("NFKC", text))
    return [
        Decimal(NUMBERS.index(each.lower()))
        if each.lower() in NUMBERS
        else Decimal(each.replace(",", ""))
        for each in found
    ]


def unusable(rule: str, answer: str) -> str | None:
    """Return why no prediction can match ``answer`` by a rule; None where one can."""
    if rule in ("words", "contains") and not words_of(answer):
        return f"{answer!r} holds no word, which the matching rule '{rule}' compares."
    if rule == "number" and len(numbers_of(answer)) != 1:
        return f"{answer!r} holds no single number, which the matching rule 'number' compares."
    return None


def chosen(options: Options, prediction: str) -> str | None:
    """Return the label of the option that a prediction names; None if it names none.

    In this order: nothing but a label (``B``, ``(b)``); a label, punctuation or a line break, and
    anything (``B. red``, ``(B) red``); a label after the word answer, option or choice, at the end
    of a sentence (``The answer is B.``); nothing but an option's text, compared as by the rule
    `words`.
    """
    # Longest first: 1 is not to be found in 10.
    labels = sorted((label for label, _ in options), key=len, reverse=True)
    label = "(?P<label>" + "|".join(map(re.escape, labels)) + ")"
    said = unicodedata.normalize("NFKC", prediction).strip()
    for pattern in (
        rf"\W*{label}\W*",
        rf"[(\[*]*{label}[*]*(?:[.):\]]+[*]*(?:\s.*)?|[ \t]*\n.*)",
        rf".*\b(?:answer|option|choice)(?:\s+is)?\s*:?\s*[(\[*]*{label}[)\]*]*(?:[.,;\n].*)?",
    ):
        found = re.fullmatch(pattern, said, re.IGNORECASE | re.DOTALL)
        if found:
            return _with_case(found["label"], labels)
    same = [known for known, text in options if same_words(text, said)]
    return same[0] if len(same) == 1 else None


def _with_case(said: str, labels: Sequence[str]) -> str:
    """Return the label as it is written; labels differ by more than their case."""
    return next(label for label in labels if label.casefold() == said.casefold())
