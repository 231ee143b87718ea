"""The embedded benchmark: questions about synthetic clips, rendered to mp4 on first use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from tokenreduce.benchmark import Benchmark, Progress, Sample
from tokenreduce.errors import ConfigError

#: Part of every file name: clips of another version are never mixed up with these.
VERSION = 1


@dataclass(frozen=True)
class Group:
    """Clips of one length: how many, and their number within the benchmark's seeds."""

    frames: int
    clips: int
    seed: int


SPLITS: dict[str, tuple[Group, ...]] = {
    "default": (Group(8, 13, 1), Group(16, 12, 2)),
    "full": (Group(8, 60, 11), Group(16, 60, 12), Group(32, 60, 13), Group(64, 60, 14)),
}


class EmbeddedBenchmark(Benchmark):
    """Ten categories of one-word questions about moments and places of short synthetic clips.

    Clips come from seeds of their own: training draws from another domain of seeds. They are
    rendered into `$TOKENREDUCE_CACHE` (default `~/.cache/tokenreduce`) the first time.
    """

    name: ClassVar[str] = "embedded"

    split: Literal["default", "full"] = Field(
        "default",
        description="default: 245 questions, 8 and 16 frames; full: 2,343, 8 to 64 frames.",
    )

    def samples(self, progress: Progress | None = None) -> list[Sample]:
        """Return the questions, rendering the clips that are not in the cache yet.

        Raises
        ------
        ConfigError
            If the cache folder cannot be written.
        """
        from tokenreduce.embedded.render import CACHE_VARIABLE, cache_dir

        try:
            return self._rendered(progress)
        except OSError as error:
            raise ConfigError(
                f"the embedded benchmark cannot render its clips into '{cache_dir()}' "
                f"({error.strerror or error}): set {CACHE_VARIABLE} to a writable folder."
            ) from error

    def _rendered(self, progress: Progress | None) -> list[Sample]:
        groups = SPLITS[self.split]
        total, done = sum(group.clips for group in groups), 0
        samples: list[Sample] = []
        for group in groups:
            for rendered in _clips(self.split, group):
                samples.extend(rendered)
                done += 1
                if progress is not None:
                    progress(done, total, "rendering clips of the embedded benchmark")
        return samples


def _clips(split: str, group: Group) -> Iterator[list[Sample]]:
    """Questions of one clip after the other; a clip's file is complete when they come."""
    from tokenreduce.embedded.clips import DOMAIN_BENCHMARK, Stream, make_clips
    from tokenreduce.embedded.questions import ask
    from tokenreduce.embedded.render import cache_dir, write_mp4

    folder = cache_dir() / f"embedded-v{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(group.clips):
        stream = Stream(DOMAIN_BENCHMARK, VERSION, group.seed, number)
        clip = make_clips(1, group.frames, stream)
        asked = ask(clip, stream)
        name = f"{split}-f{group.frames:02d}-{number:03d}"
        path: Path = folder / f"{name}.mp4"
        if not path.exists():
            write_mp4(path, clip.pixels[0])
        samples = []
        for column, category in enumerate(asked.categories):
            if asked.valid[0, column]:
                question, answer = asked.text(0, column)
                samples.append(
                    Sample(f"{name}-{category}", path, question, answer, category, group.frames)
                )
        yield samples
