"""The benchmark: rendered once, resumable, apart from training, read back nearly unchanged."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tokenreduce.embedded import benchmark, render
from tokenreduce.embedded.benchmark import SPLITS, EmbeddedBenchmark, Group
from tokenreduce.embedded.clips import DOMAIN_BENCHMARK, DOMAIN_TRAINING, Stream, make_clips
from tokenreduce.embedded.questions import CATEGORIES
from tokenreduce.errors import ConfigError
from tokenreduce.video import load_video

SMALL = {"default": (Group(8, 2, 1), Group(16, 1, 2)), "full": (Group(8, 1, 11),)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(tmp_path))
    monkeypatch.setattr(benchmark, "SPLITS", SMALL)
    return tmp_path


def test_questions_are_about_files_that_are_there(cache):
    calls = []
    samples = EmbeddedBenchmark().samples(lambda done, total, what: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert len({s.id for s in samples}) == len(samples)
    assert {s.category for s in samples} <= set(CATEGORIES)
    assert 27 <= len(samples) <= 30  # firstlast may be missing
    for sample in samples:
        assert sample.video.is_file()
        assert cache in sample.video.parents
        assert EmbeddedBenchmark().matches(sample, f" {sample.answer.upper()} ")
        assert not EmbeddedBenchmark().matches(sample, "purple")
    assert sorted({s.frames for s in samples}) == [8, 16]


def test_frames_survive_the_file(cache):
    group = SMALL["default"][0]
    samples = EmbeddedBenchmark().samples()
    clip = make_clips(1, 8, Stream(DOMAIN_BENCHMARK, benchmark.VERSION, group.seed, 0))
    video = load_video(samples[0].video, frames=8)
    assert video.total_frames == 8
    assert video.indices == tuple(range(8))
    large = torch.from_numpy(clip.pixels[0]).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert video.frames.shape == large.shape
    error = (video.frames.float() - large.float()).square().mean()
    psnr = 10 * torch.log10(255**2 / error)
    assert psnr > 33


def test_rendering_goes_on_where_it_was_interrupted_and_leaves_nothing_half_written(
    cache, monkeypatch
):
    written = []
    real = render.write_mp4

    def failing(path, frames):
        if len(written) == 1:
            raise KeyboardInterrupt
        real(path, frames)
        written.append(path.name)

    monkeypatch.setattr(render, "write_mp4", failing)
    with pytest.raises(KeyboardInterrupt):
        EmbeddedBenchmark().samples()
    first = written[0]
    monkeypatch.setattr(
        render, "write_mp4", lambda path, frames: (written.append(path.name), real(path, frames))
    )
    EmbeddedBenchmark().samples()
    assert len(written) == 3
    assert written.count(first) == 1
    EmbeddedBenchmark().samples()
    assert len(written) == 3


def test_an_encoder_failure_leaves_no_file(tmp_path):
    with pytest.raises((ValueError, TypeError, IndexError)):
        render.write_mp4(tmp_path / "a.mp4", np.zeros((2, 64, 64), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_the_same_frames_give_the_same_bytes(tmp_path):
    clip = make_clips(1, 4, Stream(8)).pixels[0]
    for name in ("a", "b"):
        render.write_mp4(tmp_path / f"{name}.mp4", clip)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_benchmark_clips_are_not_training_clips():
    # Seeds differ in their first word, so PCG64 starts elsewhere whatever the other words are.
    assert DOMAIN_BENCHMARK != DOMAIN_TRAINING
    numbers = [g.seed for groups in SPLITS.values() for g in groups]
    assert len(set(numbers)) == len(numbers)
    ours = {
        bytes(Stream(DOMAIN_BENCHMARK, benchmark.VERSION, g.seed, i).raw(4))
        for groups in SPLITS.values()
        for g in groups
        for i in range(g.clips)
    }
    assert len(ours) == sum(g.clips for groups in SPLITS.values() for g in groups)
    theirs = {
        bytes(Stream(DOMAIN_TRAINING, 0, stage, step, 1 + shard).raw(4))
        for stage in range(5)
        for step in range(300)
        for shard in range(2)
    }
    assert not ours & theirs


def test_the_full_split_is_large_enough():
    clips = sum(g.clips for g in SPLITS["full"])
    assert clips * (len(CATEGORIES) - 1) >= 2000  # firstlast is missing in a quarter of them
    assert {g.frames for g in SPLITS["full"]} == {8, 16, 32, 64}


def test_a_cache_that_cannot_be_written_is_a_wrong_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("in the way")
    monkeypatch.setenv("TOKENREDUCE_CACHE", str(file))
    with pytest.raises(ConfigError, match="set TOKENREDUCE_CACHE to a writable"):
        EmbeddedBenchmark().samples()
