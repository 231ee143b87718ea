"""Local benchmarks: what lines mean, when answers are right, and files that mean harm."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokenreduce.benchmark import Sample
from tokenreduce.config import Classes, parse_config
from tokenreduce.config_schema import json_schema
from tokenreduce.errors import ConfigError
from tokenreduce.jsonl.benchmark import JsonlBenchmark
from tokenreduce.jsonl.matching import RULES, chosen, words_of
from tokenreduce.plugins import load_plugins
from tokenreduce.testing import check_benchmark, write_clip

ROOT = Path(__file__).parents[2]
REAL_CLIPS = ROOT / "examples" / "real-clips" / "questions.jsonl"
GOOD: dict[str, Any] = {"video": "clip.mp4", "question": "what is it ?", "answer": "noise"}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a clip, and a clip outside of it that a link leads to."""
    outer = tmp_path_factory.mktemp("shelf")
    folder = outer / "set"
    (folder / "sub").mkdir(parents=True)
    write_clip(folder / "clip.mp4")
    write_clip(folder / "sub" / "other.mp4")
    write_clip(outer / "outside.mp4")
    (folder / "link.mp4").symlink_to(folder / "sub" / "other.mp4")
    (folder / "escape.mp4").symlink_to(outer / "outside.mp4")
    (folder / "escape").symlink_to(outer)
    (folder / "circle.mp4").symlink_to(folder / "circle.mp4")
    os.mkfifo(folder / "pipe.mp4")
    return folder


def written(folder: Path, *lines: dict[str, Any] | str | bytes, **options: Any) -> JsonlBenchmark:
    """Return the benchmark of a file with these lines."""
    raw = [
        line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line))
        for line in lines
    ]
    file = folder / "questions.jsonl"
    file.write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in raw))
    return JsonlBenchmark(file=file, **options)


def good(**changes: Any) -> dict[str, Any]:
    return {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}


def faults(benchmark: JsonlBenchmark) -> list[str]:
    """Return the lines of the error, without the first."""
    with pytest.raises(ConfigError) as caught:
        benchmark.samples()
    first, *others = str(caught.value).split("\n")
    assert re.fullmatch(r"\d+ faults? in '.*questions\.jsonl':", first)
    return [line.strip() for line in others]


def test_a_line_becomes_a_question(shelf: Path) -> None:
    lines = [
        good(),
        "",
        good(video="sub/other.mp4", id="b", category="noise", start=0, end=0.25, answer=3),
        good(video="link.mp4", answer=" Red ", id=7),
    ]
    assert written(shelf, *lines).samples() == [
        Sample("1", shelf / "clip.mp4", "what is it ?", "noise", "all"),
        Sample("b", shelf / "sub" / "other.mp4", "what is it ?", "3", "noise", None, 0.0, 0.25),
        Sample("7", shelf / "sub" / "other.mp4", "what is it ?", " Red ", "all"),
    ]


@pytest.mark.parametrize("answer", ["B", "b", "blue", " Blue ", "The blue."])
@pytest.mark.parametrize("options", [["red", "blue"], {"A": "red", "B": "blue"}])
def test_options(shelf: Path, options: Any, answer: str) -> None:
    (sample,) = written(shelf, good(options=options, answer=answer)).samples()
    assert sample.answer == "B"
    assert sample.options == (("A", "red"), ("B", "blue"))
    assert sample.question == (
        "what is it ?\nA. red\nB. blue\nAnswer with the option's letter only."
    )


def test_prompts_are_settings_and_braces_in_questions_are_text(shelf: Path) -> None:
    prompts = {"choice_prompt": "{options}|{question}|{x}", "open_prompt": "say: {question}"}
    lines = good(question="{options} {0}?", options=["a 1", "b 2"], answer="a 1"), good()
    first, second = written(shelf, *lines, **prompts).samples()
    assert first.question == "A. a 1\nB. b 2|{options} {0}?|{x}"
    assert second.question == "say: what is it ?"


def test_prompts_must_hold_the_question(shelf: Path) -> None:
    for wrong in ({"open_prompt": "say"}, {"choice_prompt": "{question}"}):
        with pytest.raises(ValueError, match="it must say where the "):
            written(shelf, good(), **wrong)


@pytest.mark.parametrize(
    ("rule", "answer", "right", "wrong"),
    [
        ("exact", "Red", ["Red", " Red\n"], ["red", "Red.", "a Red", ""]),
        ("words", "a red car", ["red car", "Red, car!", "The  RED car."], ["red", "red cars", ""]),
        ("words", "The", ["the", "the!"], ["a", "them", ""]),
        ("words", "2.5", ["2.5", " 2.5."], ["2 5", "25", "-2.5"]),
        ("contains", "red car", ["I see a red car.", "red car"], ["red big car", "red carpet", ""]),
        ("number", "3", ["3", "three bottles", "about 3.0 of 4", "3rd"], ["4, not 3", "30", ""]),
        ("number", "1,000.5 m", ["1000.5", "1,000.50"], ["1", "1000"]),
        ("number", "minus: -4", ["-4 degrees", "\u22124 degrees"], ["4"]),
        ("number", "3", ["three, not thirty"], ["thirty-three", "three hundred", "3 dozen", "-3"]),
        ("number", "4", ["four"], ["\u22124", "twenty four", "forty"]),
        ("number", ".5", ["0.5", ".50 m"], ["5", "0"]),
        ("words", "don't", ["Don\u2019t."], ["don t"]),
        ("contains", "-3", ["it is \u22123 degrees"], ["3", "2-3"]),
    ],
)
def test_rules(shelf: Path, rule: str, answer: str, right: list[str], wrong: list[str]) -> None:
    benchmark = written(shelf, good(answer=answer), match=rule)
    (sample,) = benchmark.samples()
    assert [said for said in right if not benchmark.matches(sample, said)] == []
    assert [said for said in wrong if benchmark.matches(sample, said)] == []


def test_words_are_compared_in_any_script() -> None:
    assert words_of("Ça, c'est L\u2019été: \uff46ull") == ["ça", "c'est", "l'été", "full"]
    assert words_of("東京 タワー。") == ["東京", "タワー"]


OPTIONS = (("A", "red"), ("B", "light green"), ("C", "a 10 cm stick"), ("D", "none of A, B and C"))


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("B", "B|b|(B)|(b).|B.|B)|[B]|**B**| B \n|B. light green|(B) light green|B: x|B. red"),
        (
            "B",
            "The answer is B.|answer: (B)|Option B|the right answer is **B**, I think.|light green",
        ),
        ("B", "Light green.|the light green|Answer: B\nbecause of its leaves|B\n\nIt is green."),
        ("B", "The answer is (B) light green.|Option B: light green|The answer is B, not A."),
        ("B", "B. light green\nB. light green|It isn't option A, the answer is B."),
        ("B", "B) because A is wrong|(B) and A is red|(B) light green\n\nReason:\nA. is wrong"),
        ("C", "10 cm stick|c"),
        ("D", "None of A, B and C."),
        (None, "not B|Not B.|The answer is not B.|It is not option B|Neither option A"),
        (None, "I can't choose option A.|I don\u2019t say option A|The wrong answer is A"),
        (None, "The answer is B or C|The answer is B, or C.|The answer is B\nor C|(B) or (C)"),
        (None, "A\nB\nC|A. red\nB. light green|(A) red\n\n(B) light green\n\n(C) a 10 cm stick"),
        (None, "|red green|The answer is a car|A car|I think B|AB|E|A, B|light|B or C|Because"),
    ],
)
def test_which_option_is_meant(label: str | None, said: str) -> None:
    assert {each: chosen(OPTIONS, each) for each in said.split("|")} == dict.fromkeys(
        said.split("|"), label
    )


def test_longer_labels_are_not_cut() -> None:
    options = (("1", "red"), ("10", "blue"), ("x", "1"))
    assert [chosen(options, said) for said in ("10", "1.", "10. blue", "1.5 m")] == [
        *("10", "1", "10", None),
    ]


def test_an_empty_answer_is_no_text_without_words() -> None:
    options = (("A", "?"), ("B", "red"))
    assert [chosen(options, said) for said in ("", "!", "?")] == [None, None, "A"]
    assert not any(rule("?", "") for rule in RULES.values())


def test_texts_that_differ_by_punctuation_are_told_apart(shelf: Path) -> None:
    options = ["C++", "C", "C#"]
    (sample,) = written(shelf, good(options=options, answer="c++")).samples()
    assert sample.answer == "A"
    said = ("C++", " c# ", "the C")
    assert [chosen((("x", "C++"), ("y", "C"), ("z", "C#")), each) for each in said] == [
        *("x", "z", None),
    ]


@given(st.text(), st.sampled_from(sorted(RULES)))
def test_rules_take_any_text(text: str, rule: str) -> None:
    assert RULES[rule]("noise 7", text) in (True, False)
    assert chosen(OPTIONS, text) in (None, "A", "B", "C", "D")


LINES: list[tuple[dict[str, Any] | str | bytes, str]] = [
    ("{", "is not JSON: "),
    ("[1, 2]", "[1, 2] is no JSON object"),
    ("null", "None is no JSON object"),
    ('{"video": NaN}', "is not JSON: NaN is no number"),
    ('{"video": "a", "video": "b"}', "has the key 'video' more than once"),
    ('{"video": "clip.mp4", "x": {"y": 1, "y": 2}}', "has the key 'y' more than once"),
    ("[" * 200_000, "is not read: it is nested too deep"),
    ('{"id": ' + "9" * 5000 + "}", "is not read: it holds a number of thousands of digits"),
    (b'{"video": "\xff"}', "is not UTF-8: byte 12 is 0xff"),
    (b'{"video":\x00 "clip.mp4"}', "holds a NUL byte at byte 10"),
    ("x" * ((1 << 20) + 1), "is longer than 1048576 bytes"),
    (good(video=...), "video: is missing"),
    (good(question=...), "question: is missing"),
    (good(answer=...), "answer: is missing"),
    (good(video=3), "video: 3 is not valid"),
    (good(question=["a"]), "question: ['a'] is not valid"),
    (good(question="  "), "question: '  ' is not valid: it is empty"),
    (good(answer=""), "answer: '' is not valid: it is empty"),
    (good(answer=True), "answer: True is not valid"),
    (good(answer=None), "answer: None is not valid"),
    (good(answer="?!"), "answer: '?!' holds no word"),
    (good(category=7), "category: 7 is not valid"),
    (good(id=1.5), "id: 1.5 is not valid"),
    (good(id=True), "id: True is not valid"),
    (good(vidio="clip.mp4"), "vidio: there is no such setting ('clip.mp4'): did you mean 'video'?"),
    (good(start="0"), "start: '0' is not valid"),
    (good(start=-1), "start: -1 is not valid"),
    (good(start=10**400), "start: 1000"),
    (good(start=2, end=1), "end: 1 s is not after start, 2 s"),
    (good(start=1, end=1.0), "end: 1 s is not after start, 1 s"),
    (good(options="red"), "options: 'red' is not valid"),
    (good(options=["red", 2]), "options.1: 2 is not valid"),
    (good(options=["noise"]), "options: fewer than two leave no choice"),
    (good(options=[]), "options: fewer than two leave no choice"),
    (good(options=["noise", "Noise "]), "options: two have the same text"),
    (good(options=[f"n{i}" for i in range(27)]), "options: 27 are more than there are letters"),
    (good(options={"a b": "noise", "c": "d"}), "options: the label 'a b' is not of 1 to 8 letters"),
    (good(options={"a": "noise", "A": "x"}), "options: the labels a, A differ by their case only"),
    (good(options=["red", "blue"]), "answer: 'noise' is neither label nor text of A ('red'), B"),
    (good(options=["B", "A"], answer="A"), "answer: 'A' names A and B: give other labels"),
    (good(video="../outside.mp4"), "video: '../outside.mp4' is outside the folder"),
    (good(video="escape.mp4"), "video: 'escape.mp4' is outside the folder"),
    (good(video="escape/outside.mp4"), "video: 'escape/outside.mp4' is outside the folder"),
    (good(video="sub/../../outside.mp4"), "video: 'sub/../../outside.mp4' is outside the folder"),
    (good(video="/etc/hostname"), "video: '/etc/hostname' is outside the folder"),
    (good(video="circle.mp4"), "video: 'circle.mp4' "),
    (good(video="pipe.mp4"), "video: 'pipe.mp4' is not a regular file"),
    (good(video="sub"), "video: 'sub' is not a regular file"),
    (good(video="lost.mp4"), "video: 'lost.mp4' is not there"),
    (good(video="http://localhost/clip.mp4"), "video: 'http://localhost/clip.mp4' is not there"),
    (good(video="a" * 5000), "video: 'aaa"),
    (good(video="clip.mp4\0"), "video: 'clip.mp4\\x00' is not valid: it holds a NUL character"),
    (good(category="a\x1b[31m"), "category: 'a\\x1b[31m' is not valid: it holds a character that"),
    (good(id="a\nb"), "id: 'a\\nb' is not valid: it holds a character that cannot be printed"),
    (good(**{"\x1b[31m\n": 1}), "'\\x1b[31m\\n': there is no such setting (1)"),
    (good(**{"k" * 5000: 1}), "'kkk"),
    (good(question="\ud800"), "question: '\\ud800' is not valid: it holds half a character"),
]


@pytest.mark.parametrize(("line", "message"), LINES, ids=[message for _, message in LINES])
def test_a_wrong_line_is_named(shelf: Path, line: Any, message: str) -> None:
    (fault,) = faults(written(shelf, good(), line, good()))
    assert fault.startswith(f"line 2: {message}")
    assert len(fault) < 400


def test_all_wrong_lines_are_named_at_once(shelf: Path) -> None:
    lines = [line for line, _ in LINES]
    named = faults(written(shelf, *lines[:19]))
    assert [int(line.split()[1].rstrip(":")) for line in named] == list(range(1, 20))
    *named, last = faults(written(shelf, *lines[:25]))[:21]
    assert len(named) == 20
    assert last == "and 5 more: `tokenreduce validate` lists all."


def faults_of_one_line(shelf: Path, line: dict[str, Any]) -> list[str]:
    return [fault.removeprefix("line 1: ").split(":")[0] for fault in faults(written(shelf, line))]


def test_all_that_is_wrong_with_one_line_is_named(shelf: Path) -> None:
    line = good(video="lost.mp4", question=1, answer="x", options=["a", "b"], colour=1, end=-1)
    assert faults_of_one_line(shelf, line) == ["answer", "colour", "end", "question", "video"]


def test_ids_are_given_once(shelf: Path) -> None:
    lines = good(id="a"), good(id=3), good(), good(id="a"), good(id="5"), good()
    assert faults(written(shelf, *lines)) == [
        "line 3: id: '3' is that of line 2 as well.",
        "line 4: id: 'a' is that of line 1 as well.",
    ]


def test_outside_is_allowed_where_that_is_said(shelf: Path) -> None:
    lines = [good(video=name) for name in ("../outside.mp4", "escape.mp4", "escape/outside.mp4")]
    samples = written(shelf, *lines, allow_outside=True).samples()
    assert {sample.video for sample in samples} == {shelf.parent / "outside.mp4"}


def test_a_file_that_is_linked_to_has_the_links_folder(shelf: Path, tmp_path: Path) -> None:
    written(shelf, good())
    (tmp_path / "linked.jsonl").symlink_to(shelf / "questions.jsonl")
    write_clip(tmp_path / "clip.mp4")
    (sample,) = JsonlBenchmark(file=tmp_path / "linked.jsonl").samples()
    assert sample.video == tmp_path / "clip.mp4"


def test_a_byte_order_mark_and_windows_lines_are_taken(shelf: Path) -> None:
    text = "\ufeff" + json.dumps(good()) + "\r"
    assert len(written(shelf, text, good()).samples()) == 2


@pytest.mark.parametrize("name", ["", "lost.jsonl", "sub", "a\0b", "a" * 5000])
def test_a_file_that_cannot_be_read(shelf: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(.*give a file with one question"):
        JsonlBenchmark(file=shelf / name).samples()


@pytest.mark.parametrize("lines", [[], ["", "  ", "\t"]])
def test_a_file_without_questions(shelf: Path, lines: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"questions\.jsonl' holds no question"):
        written(shelf, *lines).samples()


def test_long_lines_are_not_held_in_memory(shelf: Path) -> None:
    file = shelf / "questions.jsonl"
    with file.open("wb") as stream:
        stream.truncate(1 << 34)  # 16 GiB of NUL bytes that take no room on disk
        stream.seek(1 << 22)
        stream.truncate()
        stream.write(b"\n" + json.dumps(good(answer=None)).encode())
    named = faults(JsonlBenchmark(file=file))
    assert [line.split(":")[0] for line in named] == ["line 1", "line 2"]


WRONG = [line for line, _ in LINES if len(str(line)) < 5000]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KEYS = ["video", "question", "answer", "options", "category", "start", "end", "id"]
NO_TEXT = st.none() | st.booleans() | st.lists(JSON, max_size=2) | st.just("") | st.just("\0")


@given(
    st.lists(
        st.just(good()) | st.sampled_from(WRONG) | st.builds(lambda v: good(video=v), NO_TEXT),
        min_size=1,
        max_size=12,
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_wrong_lines_among_right_ones(shelf: Path, lines: list[Any]) -> None:
    benchmark = written(shelf, *lines)
    wrong = {number for number, line in enumerate(lines, 1) if line != good()}
    if not wrong:
        assert [sample.id for sample in benchmark.samples()] == [
            str(number + 1) for number in range(len(lines))
        ]
        return
    assert {int(line.split(":")[0].removeprefix("line ")) for line in faults(benchmark)} == wrong


@given(st.lists(st.binary() | st.dictionaries(st.sampled_from(KEYS), JSON).map(json.dumps)))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_questions_or_faults(shelf: Path, lines: list[Any]) -> None:
    benchmark = written(shelf, *lines)
    try:
        samples = benchmark.samples()
    except ConfigError as error:
        first, *others = str(error).split("\n")
        assert "holds no question" in first or others
        assert all(re.match(r"  (line \d+: |and \d+ more: )", line) for line in others)
    else:
        assert all(sample.video.is_file() for sample in samples)


def files_below(folder: Path) -> Iterator[tuple[str, int]]:
    for path in sorted(folder.rglob("*")):
        yield str(path), path.lstat().st_mtime_ns


def test_nothing_is_written(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HOME", "TMPDIR", "TOKENREDUCE_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    benchmark = written(shelf, *(line for line, _ in LINES))
    before = list(files_below(shelf.parent))
    faults(benchmark)
    assert list(files_below(shelf.parent)) == before
    assert list(tmp_path.iterdir()) == []


def test_the_conformance_kit_passes(shelf: Path) -> None:
    options = ["noise", "a face", "a car"]
    benchmark = written(shelf, good(), good(options=options), good(answer=2, video="link.mp4"))
    check_benchmark(benchmark)


REGISTRY = load_plugins(entry_points=[]).registry
CLASSES = Classes(REGISTRY.reducers, REGISTRY.benchmarks)


def configured(benchmark: Any) -> Any:
    data = {"benchmark": benchmark, "reducers": {"vas": None}}
    return parse_config(data, CLASSES, "a test").benchmark


def test_a_name_with_its_file_is_short_for_its_settings() -> None:
    assert configured("jsonl:my/a:b.jsonl") == JsonlBenchmark(file=Path("my/a:b.jsonl"))
    assert configured({"use": "jsonl", "file": "x", "match": "number"}).match == "number"
    assert configured("jsonl:x").model_dump(mode="json")["file"] == "x"


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [
        ("jsonl", "benchmark.file: is missing"),
        ("embedded:full", "benchmark.use: no benchmark is called 'embedded:full'"),
        ("jsnl:x", "benchmark.use: no benchmark is called 'jsnl:x': did you mean 'jsonl'"),
        ({"use": "jsonl", "file": "x", "match": "numbr"}, "did you mean 'number'"),
    ],
)
def test_wrong_settings(benchmark: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        configured(benchmark)


def test_the_schema_takes_the_short_form() -> None:
    texts = json_schema(CLASSES)["properties"]["benchmark"]["anyOf"][:2]
    assert texts[0]["enum"] == list(REGISTRY.benchmarks)
    assert re.search(texts[1]["pattern"], "jsonl:questions.jsonl")
    assert not re.search(texts[1]["pattern"], "embedded:full")


def test_the_real_clips() -> None:
    benchmark = JsonlBenchmark(file=REAL_CLIPS)
    samples = benchmark.samples()
    assert len(samples) >= 12
    assert {sample.video.name for sample in samples} == {
        path.name for path in REAL_CLIPS.parent.glob("*.mp4")
    }
    check_benchmark(benchmark)
