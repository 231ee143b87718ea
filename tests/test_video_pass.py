"""One pass over a file for several requests: the same as one pass for each."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.test_video import decode_everything, write
from tokenreduce.errors import ConfigError, TokenReduceError, VideoError
from tokenreduce.video import Video, VideoPass, VideoRequest, load_video
from tokenreduce.video import decoding as module

RULES = ["uniform", "linspace", "segments", "before_last", "all", "fps:3"]


def alone(path: Path, request: VideoRequest) -> Video | TokenReduceError:
    try:
        return load_video(
            path, request.frames, request.sampling, start=request.start, end=request.end
        )
    except TokenReduceError as error:
        return error


def check_same(found: Video | TokenReduceError, expected: Video | TokenReduceError) -> None:
    if isinstance(found, TokenReduceError):
        assert (type(found), str(found)) == (type(expected), str(expected))
        return
    assert isinstance(expected, Video)
    np.testing.assert_array_equal(found.frames, expected.frames)
    names = ("indices", "timestamps", "fps", "total_frames", "path", "bad_packets", "inexact")
    for name in names:
        assert getattr(found, name) == getattr(expected, name)


def check_all(path: Path, requests: list[VideoRequest]) -> None:
    together = VideoPass(path, requests).decode()
    assert len(together) == len(requests)
    for found, request in zip(together, requests, strict=True):
        check_same(found, alone(path, request))


@pytest.mark.parametrize("sampling", RULES)
def test_frames_are_those_of_a_full_decode(tmp_path: Path, sampling: str) -> None:
    path = write(tmp_path / "clip.mp4", 40)
    everything = decode_everything(path)
    requests = [VideoRequest(frames, sampling) for frames in (1, 4, 8, 16)]
    for found in VideoPass(path, requests).decode():
        assert isinstance(found, Video)
        np.testing.assert_array_equal(found.frames, everything[list(found.indices)])
    check_all(path, requests)


def test_all_rules_and_parts_together(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 40)
    parts: list[dict[str, Any]] = [{}, {"start": 1.0, "end": 3.0}, {"start": 3.65}, {"end": 0.2}]
    check_all(path, [VideoRequest(5, rule, **part) for rule in RULES for part in parts])


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi", "clip.ts"])
def test_other_containers(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, codec="mpeg4" if name.endswith("avi") else "libx264")
    check_all(path, [VideoRequest(frames) for frames in (2, 3, 9)])


def test_any_requests(tmp_path: Path) -> None:
    draw = random.Random(2026)
    for number in range(6):
        path = write(tmp_path / f"{number}.mp4", draw.randint(1, 50), gop=draw.choice([1, 4, 100]))
        requests = []
        for _ in range(draw.randint(1, 5)):
            start = draw.choice([None, draw.randint(0, 30) / 10])
            end = draw.choice([None, draw.randint(1, 50) / 10])
            requests.append(VideoRequest(draw.randint(1, 20), draw.choice(RULES), start, end))
        check_all(path, requests)


def test_what_is_wrong_with_one_request_costs_only_that_one(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 40)
    requests = [
        VideoRequest(4),
        VideoRequest(4, "unifrom"),
        VideoRequest(4, start=9.0),
        VideoRequest(0),
        VideoRequest(7),
    ]
    found = VideoPass(path, requests).decode()
    kinds = [type(each) for each in found]
    assert kinds == [Video, ConfigError, VideoError, ConfigError, Video]
    check_all(path, requests)


def broken(path: Path) -> Path:
    data = bytearray(write(path, gop=5).read_bytes())
    middle, length = data.index(b"mdat") + len(data) // 3, len(data) // 10
    data[middle : middle + length] = bytes(length)
    path.write_bytes(data)
    return path


def cut(path: Path) -> Path:
    data = write(path).read_bytes()
    media = data.index(b"mdat")
    path.write_bytes(data[: media + (len(data) - media) * 6 // 10])
    return path


@pytest.mark.parametrize("damage", [broken, cut])
def test_of_a_broken_file_each_request_gets_what_it_gets_alone(tmp_path: Path, damage: Any) -> None:
    path = damage(tmp_path / "clip.mp4")
    requests = [VideoRequest(frames, rule) for rule in ("uniform", "all") for frames in (1, 2, 13)]
    found = VideoPass(path, requests).decode()
    assert any(isinstance(each, Video) and each.inexact for each in found)
    check_all(path, requests)


def test_a_file_without_any_good_frame(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") - 4 if data.index(b"moov") > start else len(data)
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    found = VideoPass(path, [VideoRequest(2), VideoRequest(3)]).decode()
    assert [type(each) for each in found] == [VideoError, VideoError]
    check_all(path, [VideoRequest(2), VideoRequest(3)])


def test_the_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "clip.mp4", 40, gop=100)
    packets: list[int] = []
    original = module.Decoder._decode_packet

    def count(self: Any, packet: Any) -> Any:
        packets.append(1)
        return original(self, packet)

    monkeypatch.setattr(module.Decoder, "_decode_packet", count)
    VideoPass(path, [VideoRequest(frames) for frames in (4, 8, 16)]).decode()
    assert len(packets) <= 41  # every packet, and the one that empties the decoder


def test_bytes_are_known_before_a_frame_is_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 40)  # 96 x 64
    requests = [VideoRequest(4), VideoRequest(9), VideoRequest(4, "unknown")]
    reading = VideoPass(path, requests)
    assert reading.bytes == (4 + 9) * 96 * 64 * 3
    videos = [each for each in reading.decode() if isinstance(each, Video)]
    assert sum(each.frames.nbytes for each in videos) == reading.bytes
    assert VideoPass(path, requests, max_pixels=1000).bytes == (4 + 9) * 1000 * 3


def test_decoding_can_be_stopped(tmp_path: Path) -> None:
    reading = VideoPass(write(tmp_path / "clip.mp4", 40), [VideoRequest(40)])
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 5

    with pytest.raises(module.Stopped):
        reading.decode(stop)
    assert len(asked) == 6
