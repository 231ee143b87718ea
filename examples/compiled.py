"""Compile what reduction leaves alone, the MLPs of the decoder, with ``torch.compile``.

    python examples/compiled.py [CHECKPOINT [CLIP [QUESTION]]]

A model that is compiled as a whole is refused: reduction acts between its layers, and static
caches cannot hold a different number of tokens in each. The first answer waits for the compiler;
without a C++ compiler, only the tracing is done.
"""

import shutil
import sys
import time
from pathlib import Path

import torch

import tokenreduce
from tokenreduce.errors import UnsupportedError

CLIP = str(Path(__file__).with_name("ring.mp4"))
QUESTION = "what color is the ring"


def main(model: str = "embedded", clip: str = CLIP, question: str = QUESTION) -> None:
    """Print the refusal, then the answer twice with the seconds it took."""
    loaded = tokenreduce.load(model)
    processor = loaded.checkpoint.processor
    video = tokenreduce.load_video(clip, processor.frames, processor.sampling)
    inputs = loaded.inputs(video.frames, question, video.timestamps)
    try:
        with tokenreduce.reduce(torch.compile(loaded.model), "vas"):
            pass
    except UnsupportedError as error:
        print(error)
    backend = "inductor" if shutil.which("g++") or torch.cuda.is_available() else "eager"
    for layer in loaded.model.get_decoder().layers:
        layer.mlp.compile(dynamic=True, backend=backend)
    for _ in range(2):
        began = time.perf_counter()
        with tokenreduce.reduce(loaded.model, "vas", ratio=0.3):
            tokens = loaded.model.generate(**inputs, max_new_tokens=16)
        print(loaded.decode(tokens, inputs), f"{time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
