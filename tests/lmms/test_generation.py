"""What tasks ask of generation is honoured or refused."""

from __future__ import annotations

from typing import Any

import pytest

from tokenreduce.errors import UnsupportedError
from tokenreduce.lmms.generation import Generation, parse_generation

GREEDY = {"num_beams": 1, "do_sample": False}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, Generation(128, (), GREEDY)),
        # What Video-MME says.
        (
            {
                "max_new_tokens": 16,
                "temperature": 0.0,
                "top_p": 1.0,
                "num_beams": 1,
                "do_sample": False,
                "until": ["\n\n"],
            },
            Generation(16, ("\n\n",), GREEDY),
        ),
        ({"until": "stop"}, Generation(128, ("stop",), GREEDY)),
        ({"until": None, "max_new_tokens": None}, Generation(128, (), GREEDY)),
        ({"until": ["", "."]}, Generation(128, (".",), GREEDY)),
        ({"do_sample": True}, Generation(128, (), GREEDY)),  # there is no temperature
        ({"do_sample": True, "temperature": 0}, Generation(128, (), GREEDY)),
        ({"do_sample": False, "temperature": 0.2}, Generation(128, (), GREEDY)),
        (
            {"temperature": 0.7, "top_p": 0.9, "top_k": 5},
            Generation(
                128,
                (),
                {"num_beams": 1, "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 5},
            ),
        ),
        (
            {"num_beams": 3, "repetition_penalty": 1.2, "top_k": 4},
            Generation(128, (), {"num_beams": 3, "do_sample": False, "repetition_penalty": 1.2}),
        ),
        ({"image_aspect_ratio": "pad"}, Generation(128, (), GREEDY)),
    ],
)
def test_settings(given: dict[str, Any], wanted: Generation) -> None:
    assert parse_generation(given, 128) == wanted
    assert wanted.sampled == wanted.options["do_sample"]


@pytest.mark.parametrize("name", ["max_agentic_steps", "skip_special_tokens", "max_new_token"])
def test_what_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"'{name}', which cannot be honoured"):
        parse_generation({name: 1}, 16)


@pytest.mark.parametrize(
    ("until", "text", "left"),
    [
        ((), "a. b", "a. b"),
        ((".",), "a. b. c", "a"),
        (("b", "."), "a . b", "a"),
        (("x",), "a", "a"),
        (("a",), "a b", ""),
    ],
)
def test_texts_that_end_an_answer(until: tuple[str, ...], text: str, left: str) -> None:
    assert Generation(1, until).cut(text) == left
