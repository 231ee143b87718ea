"""`tokenreduce bench` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tokenreduce.bench import runner
from tokenreduce.cli import app

SHORT = ["--text", "8", "--repeats", "1", "--decode", "1", "--device", "cpu", "--dtype", "float32"]


def invoke(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app(["bench", *words], prog_name="tokenreduce")
    return int(ended.value.code or 0)


def test_table_and_last_line(mini: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke("mini", "--reducer", "fastv", "--without", "vision", *SHORT) == 0
    out = capsys.readouterr().out
    *table, last = out.rstrip("\n").split("\n")
    document = json.loads(last)
    assert [row["label"] for row in document["rows"]] == ["model", "eager", "fastv"]
    assert table[0] == "mini: 24 visual tokens (4 x 2 x 3), 32 in all"
    for heading in ("efficiency", "scoring", "peak", "GFLOP/s"):
        assert heading in out


def test_a_profile_is_drawn(mini: object, tmp_path: Path) -> None:
    picture = tmp_path / "where.svg"
    assert invoke("mini", "--reducer", "vcc", "--profile", str(picture), *SHORT) == 0
    words = [text.text or "" for text in ElementTree.parse(picture).findall(".//{*}text")]
    assert any(text.startswith("vcc: ") for text in words)
    assert "layers 2 to 7: 20 tokens" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mimi"], "did you mean 'mini'"),
        (["mini", "--reducer", "fastw"], "did you mean 'fastv'"),
        (["mini", "--reducer", "fastv", "--grid", "3"], "write ROWSxCOLUMNS"),
        (["mini", "--reducer", "fastv", "--dtype", "int8"], "dtype"),
        (["mini", "--reducer", "fastv", "--profile", "no/where.svg"], "a folder that exists"),
    ],
)
def test_wrong_words(
    mini: object, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert invoke(*words) == 2
    assert message in capsys.readouterr().err


def test_an_interrupt_prints_what_there_is(
    mini: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "profile_prefill", interrupted)
    assert invoke("mini", "--reducer", "fastv", *SHORT) == 130
    out, err = capsys.readouterr()
    assert "stopped before its end" in out
    assert json.loads(out.rstrip("\n").split("\n")[-1])["interrupted"]
    assert "interrupted" in err
