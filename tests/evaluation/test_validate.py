"""`tokenreduce validate`: every fault with its line, before any model is loaded."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from tokenreduce.cli import app
from tokenreduce.errors import ConfigError
from tokenreduce.jsonl.benchmark import JsonlBenchmark
from tokenreduce.jsonl.validation import validate
from tokenreduce.testing import write_clip

ROOT = Path(__file__).parents[2]
REAL_CLIPS = ROOT / "examples" / "real-clips"
GOOD: dict[str, Any] = {"video": "clip.mp4", "question": "what is it ?", "answer": "noise"}

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes the lines of a file beside a clip of 16 frames in 2 s."""
    write_clip(tmp_path / "clip.mp4", frames=16)

    def lines(*changes: dict[str, Any]) -> Path:
        file = tmp_path / "questions.jsonl"
        file.write_text("\n".join(json.dumps({**GOOD, **each}) for each in changes))
        return file

    return lines


def faults(file: Path, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(JsonlBenchmark(file=file, **options))
    return [line.strip() for line in str(caught.value).split("\n")[1:]]


def test_a_sound_file_is_summed_up(write: Write, tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", frames=4)  # 0.5 s
    short = {"video": "short.mp4", "options": ["noise", "a car"]}
    file = write({"category": "b"}, {"start": 1.5, "end": 2}, {**short, "category": "b"})
    told: list[tuple[int, int, str]] = []
    found = validate(JsonlBenchmark(file=file), lambda *told_now: told.append(told_now))
    assert (found.questions, found.choices, found.videos) == (3, 1, 2)
    assert found.categories == {"b": 2, "all": 1}
    assert found.seconds == pytest.approx(2.5)
    assert found.notes == ()
    assert told == [(1, 2, "opening videos"), (2, 2, "opening videos")]


def broken_videos(folder: Path) -> dict[str, str]:
    """Write files that are no sound video; return what is said of each."""
    whole = (folder / "clip.mp4").read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("no video at all")
    (folder / "head.mp4").write_bytes(whole[:200])
    data = whole.index(b"mdat") + 4
    (folder / "noise.mp4").write_bytes(whole[:data] + os.urandom(len(whole) - data))
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    return {
        "empty.mp4": "the file is empty",
        "text.mp4": "",
        "head.mp4": "",
        "noise.mp4": "",
        "playlist.mp4": "",
    }


def test_videos_that_cannot_be_used(write: Write, tmp_path: Path) -> None:
    broken = broken_videos(tmp_path)
    file = write({}, *({"video": name} for name in broken), {"video": "empty.mp4"})
    found = faults(file)
    assert [line.split(":")[0] for line in found] == [f"line {number}" for number in range(2, 8)]
    for line, (name, said) in zip(found, [*broken.items(), ("empty.mp4", "")], strict=True):
        assert re.fullmatch(rf"line \d: video: {re.escape(str(tmp_path / name))}: .+", line)
        assert said in line


@given(st.data())
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_files_with_any_damage_are_summed_up_or_named(
    write: Write, tmp_path: Path, data: st.DataObject
) -> None:
    file = write({"video": "damaged.mp4", "start": 0.5, "end": 1.0})
    whole = bytearray((tmp_path / "clip.mp4").read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=30)):
        whole[position] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(1, len(whole)))
    (tmp_path / "damaged.mp4").write_bytes(whole[:length])
    try:
        assert validate(JsonlBenchmark(file=file)).questions == 1
    except ConfigError as error:
        _, *lines = str(error).split("\n")
        assert len(lines) == 1
        assert lines[0].startswith(f"  line 1: video: {tmp_path / 'damaged.mp4'}: ")


def test_windows_outside_the_clip(write: Write) -> None:
    outside = {"start": 2.0}, {"end": 2.5}, {"start": 1.01, "end": 1.02}
    found = faults(write({"start": 1.8, "end": 2.05}, *outside))
    assert [line.split(": video: ")[0] for line in found] == ["line 2", "line 3", "line 4"]
    assert found[0].endswith("no frame lies from 2 s to the end; the clip has 16 frames in 2 s.")
    assert found[1].endswith("end=2.5 is after the clip's end at 2 s.")


def test_everything_is_told_at_once(write: Write, tmp_path: Path) -> None:
    broken_videos(tmp_path)
    file = write(
        {"id": "a", "video": "empty.mp4", "colour": 1},
        {"id": "a", "start": 3, "answer": "?"},
        {"video": "lost.mp4", "question": 3},
        *({"question": ""} for _ in range(40)),
    )
    found = faults(file)
    assert [":".join(line.split(":")[:2]) for line in found[:7]] == [
        *("line 1: colour", "line 1: video"),
        *("line 2: answer", "line 2: id", "line 2: video"),
        *("line 3: question", "line 3: video"),
    ]
    assert [line.split(":")[0] for line in found[7:]] == [f"line {n}" for n in range(4, 44)]


def test_a_damaged_video_is_a_note(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    options = {"movflags": "faststart"}  # the index in front: what is there can still be read
    with av.open(REAL_CLIPS / "flower.mp4") as whole, av.open(clip, "w", options=options) as copy:
        stream = copy.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    (tmp_path / "questions.jsonl").write_text(json.dumps(GOOD))
    found = validate(JsonlBenchmark(file=tmp_path / "questions.jsonl"))
    (note,) = found.notes
    assert re.fullmatch(r".*/clip\.mp4: \d+ packets are missing or broken\.", note)


def test_the_command_ends_with_2_and_names_the_lines(write: Write) -> None:
    file = write({}, {"answer": "?"}, {"id": 1})
    done = CliRunner().invoke(app, ["validate", str(file)])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-3:] == [
        f"tokenreduce: 2 faults in '{file}':",
        "  line 2: answer: '?' holds no word, which the matching rule 'words' compares.",
        "  line 3: id: '1' is that of line 1 as well.",
    ]
    assert done.stdout == ""


def test_the_command_takes_settings(write: Write) -> None:
    file = write({"answer": "3"}, {"answer": "four"})
    assert CliRunner().invoke(app, ["validate", str(file), "--set", "match=number"]).exit_code == 0
    done = CliRunner().invoke(app, ["validate", str(file), "--set", "mtch=number"])
    assert done.exit_code == 2
    assert "mtch: there is no such setting ('number'): did you mean 'match'?" in done.stderr


def test_the_command_writes_nothing_and_loads_no_model(write: Write, tmp_path: Path) -> None:
    file = write({}, {"video": "clip.mp4", "start": 1, "id": "b"})
    home = tmp_path / "home"
    home.mkdir()
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import sys\n"
        "from tokenreduce.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'torch', 'transformers'} & set(sys.modules), 'loaded'\n"
    )
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "plugins", "model_adapters"))
    folders = dict.fromkeys(("HOME", "TMPDIR", "TOKENREDUCE_CACHE"), str(home))
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, "validate", str(file)],
        env={**os.environ, "PYTHONPATH": paths, **folders},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert done.stdout == (
        f"{file}: 2 questions, 0 of them with options, about 1 video of 2.0 s in all\n  all  2\n"
    )


def test_the_real_clips_are_sound() -> None:
    found = validate(JsonlBenchmark(file=REAL_CLIPS / "questions.jsonl"))
    assert found.notes == ()
    assert found.videos == 5
    # What the clips' page says of them: 39.9, 30.2, 5.0, 13.0 and 3.0 s.
    assert found.seconds == pytest.approx(39.9 + 30.2 + 5.0 + 13.0 + 3.0, abs=0.3)


def test_the_real_clips_have_their_sources_and_licences() -> None:
    said = (REAL_CLIPS / "LICENSES.md").read_text()
    for clip in REAL_CLIPS.glob("*.mp4"):
        assert len(re.findall(rf"^\| `{re.escape(clip.name)}` \|", said, re.MULTILINE)) == 2
        assert f"`{clip.name}`" in (REAL_CLIPS / "README.md").read_text()
