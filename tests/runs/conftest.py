"""A checkpoint of a tiny random model and a benchmark of tiny files, in a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import av
import numpy as np
import pytest

from tokenreduce import Reducer
from tokenreduce.benchmark import Benchmark, Progress, Sample
from tokenreduce.inference import Loaded, load_model
from tokenreduce.testing.tiny import IMAGE, PAD, VIDEO, tiny_onevision
from tokenreduce_model_adapters.llava_onevision import LlavaOnevision
from tokenreduce_plugins.fastv import FastV
from tokenreduce_plugins.keep_all import KeepAll
from tokenreduce_plugins.random import Random
from tokenreduce_plugins.vcc import Vcc

WORDS = ["which", "color", "is", "the", "ring", "cross", "first", "user", "assistant"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' ' }}{% for p in m['content'] %}"
    "{{ '<video> ' if p['type'] == 'video' else p['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
SETTINGS = {
    "size": {"height": 32, "width": 32},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def save_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(128)}
    vocabulary = {word: i for word, i in vocabulary.items() if i not in (PAD, IMAGE, VIDEO)}
    for number, word in enumerate(WORDS):
        del vocabulary[f"w{number + 1}"]
        vocabulary[word] = number + 1
    vocabulary |= {"<pad>": PAD, "<image>": IMAGE, "<video>": VIDEO}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w99"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<pad>", "<image>", "<video>"])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>")
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(directory)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_onevision().save_pretrained(directory)
    save_tokenizer(directory)
    (directory / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return directory


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> Iterator[Loaded]:
    adapters = {"llava_onevision": LlavaOnevision}
    model = load_model(str(checkpoint), adapters, dtype="float32", device="cpu")
    yield model
    assert "generate" not in model.checkpoint.model.__dict__  # no session was left attached


def write_clip(path: Path, seed: int, frames: int = 6) -> Path:
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(frames):
            image = random.integers(0, 255, (4, 6, 3), dtype=np.uint8)
            image = image.repeat(8, axis=0).repeat(8, axis=1)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    return path


class Questions(Benchmark):
    """Three questions about each of some files; the right answer is always the same word."""

    name: ClassVar[str] = "questions"

    files: tuple[Path, ...]
    answer: str = "w50"
    frames: int | None = 4

    def samples(self, progress: Progress | None = None) -> list[Sample]:
        asked = ["which color is the ring", "which is first", "is the cross first"]
        return [
            Sample(f"{path.stem}-{n}", path, question, self.answer, f"kind {n}", self.frames)
            for path in self.files
            for n, question in enumerate(asked)
        ]


@pytest.fixture
def questions(tmp_path: Path) -> Questions:
    return Questions(files=tuple(write_clip(tmp_path / f"clip{n}.mp4", n) for n in range(2)))


class Observed:
    """Stands in for the plugin manager: some classes, and a list of what observers were told."""

    def __init__(self) -> None:
        self.registry = self
        self.adapters = {"llava_onevision": LlavaOnevision}
        self.reducers = {cls.name: cls for cls in (KeepAll, Random, FastV, Vcc)}
        self.benchmarks = {"questions": Questions}
        self.events: list[tuple[str, dict[str, Any]]] = []

    def reducer(self, name: str) -> type[Reducer]:
        return self.reducers[name]

    def benchmark(self, name: str) -> type[Benchmark]:
        return self.benchmarks[name]

    def make_benchmark(self, written: Mapping[str, Any]) -> Benchmark:
        settings = {name: value for name, value in written.items() if name != "use"}
        return self.benchmark(written["use"])(**settings)

    def notify(self, event: str, **arguments: Any) -> None:
        self.events.append((event, arguments))


@pytest.fixture
def observed() -> Observed:
    return Observed()
