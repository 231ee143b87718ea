"""The scripts under `examples`, and one model asked in three ways."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from transformers import pipeline

import tokenreduce
from tests.torchvision_environment import install_torchvision, with_torchvision
from tokenreduce.embedded import MODEL_DIR
from tokenreduce.embedded.benchmark import EmbeddedBenchmark
from tokenreduce.inference import EncodedVideo, Loaded, answer, load_model
from tokenreduce.plugins import load_plugins
from tokenreduce.processing import PipelineProcessor
from tokenreduce.video import load_video
from tokenreduce_plugins.vas import Vas

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted(path.stem for path in EXAMPLES.glob("*.py"))
CLIP, QUESTION = EXAMPLES / "ring.mp4", "what color is the ring"
RIGHT = "green"  # as the clip was drawn
ADAPTERS = load_plugins(entry_points=[]).registry.adapters


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printed(name: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    capsys.readouterr()
    script(name).main(*arguments)
    return capsys.readouterr().out.splitlines()


def test_the_clip_is_the_embedded_benchmarks() -> None:
    sample = EmbeddedBenchmark().samples()[0]
    ours, theirs = (load_video(path, 8).frames.float() for path in (CLIP, sample.video))
    assert (ours - theirs).abs().mean() < 1  # grey levels; encoders may differ
    assert (sample.question, sample.answer) == (QUESTION, RIGHT)


def test_every_script_is_in_the_table() -> None:
    table = re.findall(r"^\| `(\w+)\.py` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    assert sorted(table) == SCRIPTS


def test_pipeline(capsys: pytest.CaptureFixture[str]) -> None:
    said, memory = printed("pipeline", capsys)
    assert said == RIGHT
    assert 0.3 < float(memory.removeprefix("Img-Memory ")) < 0.9


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava_next_video"])
def test_pipeline_on_a_tiny_checkpoint(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module(f"tests.adapters.families.{family}").write_checkpoint(tmp_path)
    said = "\n".join(printed("pipeline", capsys, str(tmp_path), str(CLIP), "what is it ?")[:-1])
    loaded = load_model(str(tmp_path), ADAPTERS, dtype="float32", device="cpu")
    own = loaded.checkpoint.processor
    video = load_video(CLIP, own.frames, own.sampling)
    inputs = EncodedVideo(loaded, video.frames, video.timestamps).inputs("what is it ?")
    expected = answer(loaded, inputs, [Vas(ratio=0.3)], max_new_tokens=256)
    assert said == expected.text.strip()


def test_any_to_any_needs_torchvision(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImportError, match="AnyToAnyPipeline requires the Torchvision library"):
        printed("any_to_any", capsys)


def test_transformers_own_processor_needs_torchvision() -> None:
    with pytest.raises(ImportError, match="requires the Torchvision library"):
        pipeline("image-text-to-text", model=str(MODEL_DIR))


def test_chat_template(capsys: pytest.CaptureFixture[str]) -> None:
    first, _ = printed("chat_template", capsys)
    assert first == RIGHT


def test_streaming(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed("streaming", capsys) == [RIGHT]


def test_generation_config(capsys: pytest.CaptureFixture[str]) -> None:
    beams, sampled = (line.split(" | ") for line in printed("generation_config", capsys))
    assert beams[:2] == ["beams", RIGHT]
    assert len(set(beams)) == 3  # beams differ
    assert sampled[0] == "sampled"
    assert len(sampled) == 3


def test_device_map(capsys: pytest.CaptureFixture[str]) -> None:
    said, places = printed("device_map", capsys)
    assert said == RIGHT
    assert re.fullmatch(r"\{.*'?(cpu|\d)'?.*\}", places)


def test_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed("bfloat16", capsys) == [RIGHT, "torch.bfloat16"]


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)  # a compiler would take its time
    refusal, first, second = printed("compiled", capsys)
    assert refusal.startswith("OptimizedModule is compiled: ")
    for line in (first, second):
        assert re.fullmatch(rf"{RIGHT} \d+\.\d\d s", line)


@pytest.fixture(scope="module")
def embedded() -> Loaded:
    return load_model("embedded", ADAPTERS, dtype="float32", device="cpu")


def in_three_ways(
    loaded: Loaded, pipe: Any, count: int, reducers: list[Vas]
) -> list[tuple[str, str, str]]:
    """Ask evenly spread questions of the embedded benchmark; return the answers of each way."""
    own = loaded.checkpoint.processor
    found = []
    samples = EmbeddedBenchmark().samples()
    for sample in samples[:: len(samples) // count][:count]:
        assert sample.frames is not None
        video = load_video(sample.video, sample.frames, own.sampling)
        encoded = EncodedVideo(loaded, video.frames, video.timestamps).inputs(sample.question)
        asked = answer(loaded, encoded, reducers, max_new_tokens=4).text
        inputs = own.video_inputs(video.frames, sample.question, video.timestamps)
        content = [
            {"type": "video", "path": str(sample.video)},
            {"type": "text", "text": sample.question},
        ]
        options = {"processor_kwargs": {"num_frames": sample.frames}, "max_new_tokens": 4}
        with tokenreduce.reduce(loaded.model, reducers or "keep_all"):
            tokens = loaded.model.generate(**inputs, max_new_tokens=4)
            said = pipe([{"role": "user", "content": content}], return_full_text=False, **options)
        generated = own.decode(tokens[0, inputs["input_ids"].shape[1] :])
        found.append((asked, generated, said[0]["generated_text"].strip()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("reducers", [[], [Vas(ratio=0.3)]], ids=["full", "reduced"])
def test_a_hundred_questions_in_three_ways(embedded: Loaded, reducers: list[Vas]) -> None:
    pipe = pipeline("image-text-to-text", embedded.model, processor=PipelineProcessor(embedded))
    found = in_three_ways(embedded, pipe, 100, reducers)
    assert len(found) == 100
    assert [ways for ways in found if len(set(ways)) > 1] == []
    assert len({asked for asked, _, _ in found}) > 5  # not one word for everything


IN_A_PROCESS = """
from tests.torchvision_environment import import_torchvision
import_torchvision()
from tests.evaluation.test_examples import ask_any_to_any
ask_any_to_any()
"""


def ask_any_to_any() -> None:
    """Print what the script prints, and whether ten questions have the same answers thrice."""
    script("any_to_any").main()
    loaded = load_model("embedded", ADAPTERS, dtype="float32", device="cpu")
    pipe = pipeline("any-to-any", loaded.model, processor=PipelineProcessor(loaded))
    print(all(len(set(ways)) == 1 for ways in in_three_ways(loaded, pipe, 10, [Vas(ratio=0.3)])))
    # transformers' own processor: it takes frames, and no file without a decoder of its own.
    theirs = pipeline("any-to-any", model=str(MODEL_DIR), device="cpu", dtype="float32")
    content = [{"type": "video", "path": str(CLIP)}, {"type": "text", "text": QUESTION}]
    try:
        theirs([{"role": "user", "content": content}], max_new_tokens=4)
    except ImportError as error:
        print(error)
    messages = [{"role": "user", "content": [{"type": "video"}, content[1]]}]
    prompt = theirs.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    frames = load_video(CLIP, 8).frames.permute(0, 3, 1, 2)
    with tokenreduce.reduce(theirs.model, "vas", ratio=0.3) as run:
        said = theirs(prompt, videos=frames, max_new_tokens=4, return_full_text=False)
    print(said[0]["generated_text"].strip(), run.trace.visual_tokens)


@pytest.mark.slow
def test_any_to_any_with_torchvision(tmp_path: Path) -> None:
    install_torchvision(tmp_path)
    done = with_torchvision(tmp_path, "-c", IN_A_PROCESS)
    assert not done.returncode, done.stderr
    said, memory, same, refused, theirs = done.stdout.splitlines()
    assert (said, same, theirs) == (RIGHT, "True", f"{RIGHT} (128,)")
    assert memory.startswith("Img-Memory 0.")
    assert "`torchcodec` is not installed" in refused
