"""Decoding ahead: what is decoded when, how much is held, and that nothing stays behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tokenreduce import clips as module
from tokenreduce.clips import ClipRequest, Clips
from tokenreduce.errors import VideoError
from tokenreduce.testing import write_clip
from tokenreduce.video import Video, VideoPass, load_video

FRAME = 64 * 64 * 3  # bytes of a frame of `write_clip`, which is scaled up


class Passes:
    """Counts the passes over files, and holds those back that a test names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[tuple[str, int]] = []
        self.held_back: dict[str, threading.Event] = {}
        self.stopped: list[str] = []
        passes = self

        class Watched(VideoPass):
            def decode(self, stop: Callable[[], bool] = lambda: False) -> list[object]:  # type: ignore[override]
                name = self._path.stem
                passes.begun.append((name, len(self._picked)))
                try:
                    if name in passes.held_back:
                        while not passes.held_back[name].wait(0.005):
                            if stop():
                                raise module.Stopped
                    return super().decode(stop)  # type: ignore[return-value]
                except module.Stopped:
                    passes.stopped.append(name)
                    raise

        monkeypatch.setattr(module, "VideoPass", Watched)

    def hold_back(self, name: str) -> threading.Event:
        return self.held_back.setdefault(name, threading.Event())

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.begun]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


@pytest.fixture
def made() -> Iterator[Callable[[int], Clips]]:
    all_of_them: list[Clips] = []

    def make(ahead: int) -> Clips:
        all_of_them.append(Clips(ahead))
        return all_of_them[-1]

    yield make
    for each in all_of_them:
        each.close()
    assert decoders() == []


def decoders() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "decoding ahead"]


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


def at_rest() -> None:
    until(lambda: not decoders())


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., ClipRequest]:
    def one(name: str, frames: int = 4, **part: float) -> ClipRequest:
        path = tmp_path / f"{name}.mp4"
        if not path.exists():
            write_clip(path, 10)
        return ClipRequest(path, frames, "uniform", **part)

    return one


Ask = Callable[..., ClipRequest]
Made = Callable[[int], Clips]


def same(found: Video, request: ClipRequest) -> bool:
    by_itself = load_video(request.path, request.frames, start=request.start, end=request.end)
    return torch.equal(found.frames, by_itself.frames) and found.indices == by_itself.indices


def test_the_next_one_is_decoded_while_the_present_one_is_used(
    ask: Ask, made: Made, passes: Passes
) -> None:
    clips = made(10 * FRAME)
    clips.begin([ask("a")], [[ask("b")]])
    assert decoders() == []  # the model has nothing to do yet, so nothing may be in its way
    assert same(clips.get(ask("a")), ask("a"))
    at_rest()
    assert passes.names == ["a", "b"]
    clips.forget()
    clips.begin([ask("b")])
    assert same(clips.get(ask("b")), ask("b"))
    assert passes.names == ["a", "b"]


def test_one_who_asks_for_what_is_being_decoded_waits_for_it(
    ask: Ask, made: Made, passes: Passes
) -> None:
    clips = made(10 * FRAME)
    gate = passes.hold_back("b")
    clips.expect([[ask("b")]])
    until(lambda: passes.names == ["b"])
    clips.begin([ask("b")])
    threading.Timer(0.1, gate.set).start()
    assert same(clips.get(ask("b")), ask("b"))
    assert passes.names == ["b"]
    assert 0.05 < clips.waited < 3


def test_what_waits_never_takes_more_than_its_room(ask: Ask, made: Made, passes: Passes) -> None:
    clips = made(8 * FRAME)
    clips.begin([ask("now", 5)], [[ask("a", 4)], [ask("b", 5)], [ask("c", 3)]])
    clips.get(ask("now", 5))
    at_rest()
    # 5 + 4 + 3 frames: b would have been 9 of 8 with a, and has been left out.
    assert clips.held == clips.peak == 12 * FRAME
    assert passes.names == ["now", "a", "c"]
    clips.forget()
    assert clips.held == 7 * FRAME
    clips.begin([ask("a", 4)], [[ask("b", 5)], [ask("c", 3)]])
    at_rest()
    assert passes.names == ["now", "a", "c", "b"]  # there is room now: a is no longer waiting
    assert clips.held == clips.peak == 12 * FRAME


def test_what_is_too_large_is_decoded_when_it_comes(ask: Ask, made: Made, passes: Passes) -> None:
    clips = made(3 * FRAME)
    clips.expect([[ask("large", 4)]])
    at_rest()
    assert (passes.names, clips.held) == ([], 0)
    clips.begin([ask("large", 4)])
    assert same(clips.get(ask("large", 4)), ask("large", 4))


def test_memory_does_not_grow_with_the_number_of_clips(ask: Ask, made: Made) -> None:
    clips = made(6 * FRAME)
    names = [f"clip{number}" for number in range(12)]
    held = []
    for name, after in zip(names, [*names[1:], None], strict=True):
        clips.begin([ask(name)], [[ask(after)]] if after else [])
        clips.get(ask(name))
        at_rest()
        held.append(clips.held)
        clips.forget()
    assert held == [8 * FRAME] * 11 + [4 * FRAME]
    assert (clips.peak, clips.held) == (8 * FRAME, 0)


def test_without_room_nothing_is_decoded_ahead(ask: Ask, made: Made, passes: Passes) -> None:
    clips = made(0)
    clips.begin([ask("a")], [[ask("b")]])
    clips.get(ask("a"))
    assert decoders() == []
    assert passes.names == ["a"]


def test_a_broken_file_is_told_when_it_is_asked_for(ask: Ask, made: Made, tmp_path: Path) -> None:
    clips = made(10 * FRAME)
    (tmp_path / "broken.mp4").write_text("no video")
    broken, gone = ask("broken"), ClipRequest(tmp_path / "gone.mp4", 4, "uniform")
    clips.expect([[broken], [gone], [ask("sound")]])
    at_rest()
    clips.begin([broken], [[gone], [ask("sound")]])
    for _ in range(2):
        with pytest.raises(VideoError, match=r"broken\.mp4"):
            clips.get(broken)
    clips.begin([gone], [[ask("sound")]])
    with pytest.raises(VideoError, match="there is no such file"):
        clips.get(gone)
    clips.begin([ask("sound")])
    assert same(clips.get(ask("sound")), ask("sound"))


def test_what_does_not_come_after_all_is_stopped_and_let_go(
    ask: Ask, made: Made, passes: Passes
) -> None:
    clips = made(20 * FRAME)
    passes.hold_back("b")
    clips.expect([[ask("a")], [ask("b")]])
    until(lambda: passes.names == ["a", "b"])
    assert clips.held == 8 * FRAME  # room for b is taken while it is decoded
    clips.expect([])
    at_rest()
    assert passes.stopped == ["b"]
    assert clips.held == 0


def test_closing_ends_the_thread(ask: Ask, passes: Passes) -> None:
    clips = Clips(20 * FRAME)
    passes.hold_back("a")
    clips.expect([[ask("a")], [ask("b")]])
    until(lambda: passes.names == ["a"])
    clips.close()
    assert decoders() == []
    assert (passes.stopped, clips.held) == (["a"], 0)


def test_all_that_a_unit_wants_of_a_file_comes_in_one_pass(
    ask: Ask, made: Made, passes: Passes
) -> None:
    clips = made(0)
    wanted = [ask("a", 2), ask("a", 7), ask("a", 3, start=0.1, end=0.6), ask("b", 2)]
    clips.begin(wanted)
    for request in wanted:
        assert same(clips.get(request), request)
    assert passes.begun == [("a", 3), ("b", 1)]
    clips.forget(but=wanted[0].path)
    assert clips.held == (2 + 7 + 3) * FRAME


def test_ahead_too_it_is_one_pass(ask: Ask, made: Made, passes: Passes) -> None:
    clips = made(9 * FRAME)
    clips.expect([[ask("a", 2), ask("a", 7)]])
    at_rest()
    assert (passes.begun, clips.held) == ([("a", 2)], 9 * FRAME)


def test_a_unit_that_wants_too_much_at_once_gets_it_one_by_one(
    ask: Ask, made: Made, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOGETHER", 8 * FRAME)
    clips = made(0)
    clips.begin([ask("a", 2), ask("a", 7)])
    assert same(clips.get(ask("a", 2)), ask("a", 2))
    assert clips.held == 2 * FRAME
    assert same(clips.get(ask("a", 7)), ask("a", 7))
    assert passes.begun == [("a", 1), ("a", 1)]


def test_frames_that_the_next_unit_wants_as_well_are_kept(
    ask: Ask, made: Made, passes: Passes
) -> None:
    clips = made(10 * FRAME)
    clips.begin([ask("a")], [[ask("a")]])
    clips.get(ask("a"))
    clips.forget()
    clips.begin([ask("a")])
    clips.get(ask("a"))
    assert passes.names == ["a"]
