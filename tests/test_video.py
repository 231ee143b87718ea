"""Decoding against decode-everything, on files that PyAV writes into a temporary folder."""

from __future__ import annotations

import shutil
import struct
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from tokenreduce.errors import ConfigError, VideoError
from tokenreduce.video import Video, inspect_video, load_video
from tokenreduce.video.sampling import sample_indices

WIDTH, HEIGHT = 96, 64


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame `number` written as six black or white columns, most significant bit first."""
    bits = [(number >> bit) & 1 for bit in range(5, -1, -1)]
    row = np.repeat(np.array(bits, dtype=np.uint8) * 220 + 16, width // 6)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_in(image: np.ndarray) -> int:
    width = image.shape[1] // 6
    columns = [image[:, i * width : (i + 1) * width].mean() > 126 for i in range(6)]
    return int("".join(str(int(bit)) for bit in columns), 2)


def write(
    path: Path,
    count: int = 40,
    *,
    codec: str = "libx264",
    gop: int = 10,
    b_frames: int = 2,
    pts: list[int] | None = None,
    index_in_front: bool = True,
) -> Path:
    options = {"movflags": "faststart"} if path.suffix == ".mp4" and index_in_front else {}
    with av.open(str(path), "w", options=options) as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size = gop
        stream.codec_context.time_base = Fraction(1, 10)
        if codec == "libx264":
            stream.options = {"crf": "10", "bf": str(b_frames), "sc_threshold": "0"}
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def decode_everything(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])


def numbers(video: Video) -> list[int]:
    return [number_in(image) for image in video.frames.numpy()]


def fake_rotation(path: Path, matrix: list[int]) -> None:
    """Write a display matrix into the track header of an mp4 file."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40  # version 0: the matrix lies 40 bytes after the name
    assert struct.unpack_from(">9i", data, start)[::4] == (65536, 65536, 1 << 30)
    struct.pack_into(">9i", data, start, *matrix)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi", "clip.ts"])
@pytest.mark.parametrize("frames", [1, 3, 8, 40])
def test_sampled_frames_are_those_of_a_full_decode(tmp_path: Path, name: str, frames: int) -> None:
    path = write(tmp_path / name, codec="mpeg4" if name.endswith("avi") else "libx264")
    video = load_video(path, frames)
    assert video.total_frames == 40
    assert numbers(video) == list(video.indices)
    np.testing.assert_array_equal(video.frames, decode_everything(path)[list(video.indices)])
    assert (video.bad_packets, video.inexact) == (0, 0)
    assert video.fps == pytest.approx(10, rel=0.03)
    assert video.timestamps == pytest.approx([i / 10 for i in video.indices], abs=1e-3)


@pytest.mark.parametrize("gop", [1, 4, 100])
@pytest.mark.parametrize("b_frames", [0, 3])
def test_seeking_changes_no_frame(tmp_path: Path, gop: int, b_frames: int) -> None:
    path = write(tmp_path / "clip.mp4", 60, gop=gop, b_frames=b_frames)
    video = load_video(path, 5, "linspace")
    assert numbers(video) == [0, 14, 29, 44, 59]
    np.testing.assert_array_equal(video.frames, decode_everything(path)[[0, 14, 29, 44, 59]])


def test_seeking_skips_packets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenreduce.video import decoding as module

    seeks: list[int] = []
    original = module.Decoder.skip_towards

    def spy(self: module.Decoder, time: int) -> None:
        before = self._frames
        original(self, time)
        seeks.append(int(self._frames is not before))

    monkeypatch.setattr(module.Decoder, "skip_towards", spy)
    load_video(write(tmp_path / "clip.mp4", 60, gop=10), 3)  # frames 10, 30, 50
    assert seeks == [1, 1, 1]
    seeks.clear()
    load_video(write(tmp_path / "one.mp4", 60, gop=100), 3)
    assert seeks == [0, 0, 0]


def test_variable_frame_rate(tmp_path: Path) -> None:
    pts = [0, 1, 2, 10, 11, 30, 31, 32, 60, 90]
    path = write(tmp_path / "clip.mkv", 10, pts=pts, b_frames=0)
    video = load_video(path, 99, "all")
    assert numbers(video) == list(range(10))
    assert video.timestamps == pytest.approx([p / 10 for p in pts])
    assert video.fps == pytest.approx(9 / 9.0)


def test_a_clip_shorter_than_asked_repeats_frames(tmp_path: Path) -> None:
    video = load_video(write(tmp_path / "clip.mp4", 3), 6)
    assert video.indices == (0, 0, 1, 1, 2, 2)
    assert numbers(video) == [0, 0, 1, 1, 2, 2]


def test_one_frame(tmp_path: Path) -> None:
    video = load_video(write(tmp_path / "clip.mp4", 1), 4)
    assert video.indices == (0, 0, 0, 0)
    assert video.timestamps == (0, 0, 0, 0)


def test_the_best_of_two_streams(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as out:
        streams = []
        for width, height in ((48, 32), (WIDTH, HEIGHT)):
            stream = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            streams.append(stream)
        # The file's first stream is not its main one. PyAV 15 takes the number, not the flag.
        streams[1].disposition = Disposition.default.value
        for number in range(8):
            for stream in streams:
                image = picture(number, stream.width, stream.height)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        for stream in streams:
            out.mux(stream.encode())
    video = load_video(path, 8)
    assert tuple(video.frames.shape) == (8, HEIGHT, WIDTH, 3)
    assert numbers(video) == list(range(8))


@pytest.mark.parametrize(
    ("matrix", "turns"),
    [
        ([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30], -1),  # shown turned clockwise: a phone held up
        ([0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30], 1),
        ([-65536, 0, 0, 0, -65536, 0, 0, 0, 1 << 30], 2),
    ],
)
def test_rotation(tmp_path: Path, matrix: list[int], turns: int) -> None:
    path = write(tmp_path / "clip.mp4", 8)
    upright = load_video(path, 4).frames.numpy()
    fake_rotation(path, matrix)
    np.testing.assert_array_equal(load_video(path, 4).frames, np.rot90(upright, turns, axes=(1, 2)))


def test_large_frames_are_scaled_down(tmp_path: Path) -> None:
    video = load_video(write(tmp_path / "clip.mp4", 8), 4, max_pixels=WIDTH * HEIGHT // 4)
    assert tuple(video.frames.shape) == (4, HEIGHT // 2, WIDTH // 2, 3)
    assert numbers(video) == [1, 3, 5, 7]


def test_too_many_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 20)
    with pytest.raises(VideoError, match=r"clip\.mp4: 'all' picks 20 frames and the limit is 8"):
        load_video(path, sampling="all", max_frames=8)


def test_truncated_file_still_gives_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    whole = path.read_bytes()
    media = whole.index(b"mdat")
    path.write_bytes(whole[: media + (len(whole) - media) * 6 // 10])
    video = load_video(path, 8)
    assert 8 < video.total_frames < 40
    assert video.bad_packets > 0
    wrong = sum(s != i for s, i in zip(numbers(video), video.indices, strict=True))
    assert wrong <= video.inexact
    assert 1 <= video.inexact <= 3  # those around the packet that is cut in two


def test_zeroed_region_uses_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", gop=5)
    data = bytearray(path.read_bytes())
    middle, length = data.index(b"mdat") + len(data) // 3, len(data) // 10
    data[middle : middle + length] = bytes(length)
    path.write_bytes(data)
    video = load_video(path, 99, "all")
    assert video.total_frames == 40
    assert 0 < video.bad_packets < 20
    assert 0 < video.inexact < 20
    shown = numbers(video)
    assert sum(s != i for s, i in zip(shown, video.indices, strict=True)) <= video.inexact
    assert shown[:8] == list(range(8))
    assert shown[-5:] == list(range(35, 40))


def test_cut_before_the_first_whole_packet(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 20])
    with pytest.raises(VideoError, match=r"clip\.mp4: .*(no frame|can be decoded)"):
        load_video(path)


def test_index_at_the_end_is_lost(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", index_in_front=False)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(VideoError, match=r"clip\.mp4: not readable as video"):
        load_video(path)


def audio_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def zero_frames(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        out.start_encoding()
    return path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.mp4", "no such file"),
        ("folder.mp4", "not a regular file"),
        ("empty.mp4", "the file is empty"),
        ("sound.mp4", "no video stream.*audio"),
        ("zero.mkv", "holds no frame|not readable as video"),
        ("words.mp4", "not readable as video"),
        ("words.txt", "a text file"),
        ("list.m3u8", "not readable as video|no video stream"),
    ],
)
def test_not_a_video(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    if name.startswith("folder"):
        path.mkdir()
    elif name.startswith("empty"):
        path.touch()
    elif name.startswith("sound"):
        audio_only(path)
    elif name.startswith("zero"):
        zero_frames(path)
    elif name.startswith("words"):
        path.write_text("not a video at all\n" * 50)
    elif name.startswith("list"):
        path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/clip.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(VideoError, match=rf"{name}: .*({reason})"):
        load_video(path)


def test_a_clip_that_is_too_short_comes_after_black_frames(tmp_path: Path) -> None:
    video = load_video(write(tmp_path / "clip.mp4", 3), 5, "before_last")
    assert video.indices == (-1, -1, 0, 1, 2)
    assert video.timestamps == pytest.approx((0, 0, 0, 0.1, 0.2), abs=1e-3)
    assert not video.frames[:2].any()
    np.testing.assert_array_equal(video.frames[2:], decode_everything(tmp_path / "clip.mp4"))
    assert (video.total_frames, video.inexact) == (3, 0)


def test_a_name_with_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "a clip: 100 % #1 é.mp4"
    shutil.copy(write(tmp_path / "clip.mp4", 4), path)
    assert numbers(load_video(path, 4)) == [0, 1, 2, 3]


@pytest.mark.parametrize("total", [1, 2, 7, 16, 100, 1801])
@pytest.mark.parametrize("frames", [1, 2, 8, 16, 33])
def test_rules_against_numpy(total: int, frames: int) -> None:
    segment = total / frames
    middles = [int(segment * i + segment / 2 + 1e-9) for i in range(frames)]
    assert sample_indices("uniform", total, frames, Fraction(10)) == middles
    ends = np.floor(np.linspace(0, total - 1, frames) + 1e-9).astype(int).tolist()
    assert sample_indices("linspace", total, frames, Fraction(10)) == ends
    size = (total - 1) / frames
    starts = [int(size / 2 + np.round(size * i) + 1e-9) for i in range(frames)]
    assert sample_indices("segments", total, frames, Fraction(10)) == starts
    if total >= frames:
        all_but_last = np.linspace(0, total - 2, frames, dtype=int).tolist()
        assert sample_indices("before_last", total, frames, Fraction(10)) == all_but_last


def test_rules_by_hand() -> None:
    assert sample_indices("uniform", 16, 16, Fraction(10)) == list(range(16))
    assert sample_indices("uniform", 10, 4, Fraction(10)) == [1, 3, 6, 8]
    assert sample_indices("all", 3, 99, Fraction(10)) == [0, 1, 2]
    # 0 to 14 in steps of 14 / 3; 9 to 8 frames in steps of 1; 3 frames are too few for 5.
    assert sample_indices("before_last", 16, 4, Fraction(10)) == [0, 4, 9, 14]
    assert sample_indices("before_last", 9, 8, Fraction(10)) == list(range(8))
    assert sample_indices("before_last", 3, 5, Fraction(10)) == [-1, -1, 0, 1, 2]
    # Segments of 99 / 16 = 6.1875: starts at 0, 6.19, 12.4, ..., 49.5 (even: 50), ... and 3 more.
    assert sample_indices("segments", 100, 16, Fraction(10)) == [
        *(3, 9, 15, 22, 28, 34, 40, 46, 53, 59, 65, 71, 77, 83, 90, 96),
    ]
    assert sample_indices("segments", 17, 16, Fraction(10)) == list(range(16))
    assert sample_indices("segments", 4, 6, Fraction(10)) == [0, 0, 1, 2, 2, 2]
    # 25 frames per second, 3 s: 2 a second are every 12.5 frames.
    assert sample_indices("fps:2", 75, 16, Fraction(25)) == [0, 12, 25, 37, 50, 62]
    assert sample_indices("fps:0.5", 75, 16, Fraction(25)) == [0, 50]
    # Too many for 4 frames: as many as allowed, from the first to the last.
    assert sample_indices("fps:2", 75, 4, Fraction(25)) == [0, 24, 49, 74]


@pytest.mark.parametrize("sampling", ["unifrom", "fps", "fps:", "fps:0", "fps:-1", "fps:x", ""])
def test_unknown_rule(sampling: str) -> None:
    with pytest.raises(ConfigError, match=r"known are uniform, linspace, .*before_last, .*fps:X"):
        sample_indices(sampling, 10, 4, Fraction(10))


def test_no_frames_asked() -> None:
    with pytest.raises(ConfigError, match="frames=0"):
        sample_indices("uniform", 10, 0, Fraction(10))


def test_a_part_holds_the_frames_from_its_start_and_before_its_end(tmp_path: Path) -> None:
    # 40 frames of 0.1 s each: frames 10 to 29 are shown from 1 s on and before 3 s.
    path = write(tmp_path / "clip.mp4", 40)
    video = load_video(path, sampling="all", start=1.0, end=3.0)
    assert numbers(video) == list(range(10, 30)) == list(video.indices)
    np.testing.assert_allclose(video.timestamps, [0.1 * number for number in range(10, 30)])
    assert video.total_frames == 40
    assert numbers(load_video(path, 4, start=1, end=3)) == [12, 17, 22, 27]
    assert numbers(load_video(path, sampling="all", start=3.65)) == [37, 38, 39]
    assert numbers(load_video(path, sampling="all", end=0.1)) == [0]
    # Two a second from the beginning of the part on: every five frames.
    assert numbers(load_video(path, 9, sampling="fps:2", start=1.3, end=3)) == [13, 18, 23, 28]


def test_parts_side_by_side_are_the_whole(tmp_path: Path) -> None:
    times = [0, 1, 2, 7, 8, 20, 21, 22, 30, 39]  # tenths of a second: no even rate
    path = write(tmp_path / "clip.mkv", 10, pts=times)
    cuts = [None, 0.2, 0.7, 0.75, 2.2, 3.05, None]
    parts = [
        numbers(load_video(path, sampling="all", start=start, end=end))
        for start, end in pairwise(cuts)
        if any(
            (start is None or time / 10 >= start) and (end is None or time / 10 < end)
            for time in times
        )
    ]
    assert [number for part in parts for number in part] == list(range(10))


def test_black_frames_of_a_part_have_its_first_time(tmp_path: Path) -> None:
    path = write(tmp_path / "clip.mp4", 40)
    video = load_video(path, 5, "before_last", start=2.0, end=2.3)
    assert video.indices == (-1, -1, 20, 21, 22)
    np.testing.assert_allclose(video.timestamps, [2.0, 2.0, 2.0, 2.1, 2.2])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"start": 4.0}, r"no frame lies from 4 s to the end; the clip has 40 frames in 4 s"),
        ({"start": 1.01, "end": 1.09}, r"no frame lies from 1\.01 s to 1\.09 s"),
        ({"end": 4.2}, r"end=4\.2 is after the clip's end at 4 s"),
    ],
)
def test_a_part_outside_the_clip(tmp_path: Path, part: dict[str, float], message: str) -> None:
    path = write(tmp_path / "clip.mp4", 40)
    with pytest.raises(VideoError, match=rf"clip\.mp4: {message}"):
        load_video(path, **part)
    with pytest.raises(VideoError, match=message):
        inspect_video(path).check_part(part.get("start"), part.get("end"))


@pytest.mark.parametrize(
    "part",
    [
        {"start": -0.1},
        {"end": float("nan")},
        {"start": float("inf")},
        {"start": 2, "end": 2},
        {"start": 2, "end": 1},
    ],
)
def test_a_part_of_no_clip(tmp_path: Path, part: dict[str, float]) -> None:
    path = write(tmp_path / "clip.mp4", 40)
    with pytest.raises(ConfigError, match=r"clip\.mp4"):
        load_video(path, **part)


def test_a_look_at_a_file(tmp_path: Path) -> None:
    found = inspect_video(write(tmp_path / "clip.mp4", 40))
    assert (found.total_frames, found.fps, found.bad_packets) == (40, 10.0, 0)
    assert found.seconds == pytest.approx(4.0)
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    with pytest.raises(VideoError, match=r"text\.mp4"):
        inspect_video(text)
