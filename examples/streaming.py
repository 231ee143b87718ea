"""Print an answer word by word while it is made, with ``TextIteratorStreamer``.

python examples/streaming.py [CHECKPOINT [CLIP [QUESTION]]]
"""

import sys
from pathlib import Path
from threading import Thread

from transformers import TextIteratorStreamer

import tokenreduce

CLIP = str(Path(__file__).with_name("ring.mp4"))
QUESTION = "what color is the ring"


def main(model: str = "embedded", clip: str = CLIP, question: str = QUESTION) -> None:
    """Print the answer as it comes."""
    loaded = tokenreduce.load(model)
    processor = loaded.checkpoint.processor
    video = tokenreduce.load_video(clip, processor.frames, processor.sampling)
    inputs = loaded.inputs(video.frames, question, video.timestamps)
    streamer = TextIteratorStreamer(
        processor.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=600
    )
    arguments = {**inputs, "max_new_tokens": 64, "streamer": streamer}
    # The block stays open until the thread is done: the model is reduced all the while.
    with tokenreduce.reduce(loaded.model, "vas", ratio=0.3):
        thread = Thread(target=loaded.model.generate, kwargs=arguments)
        thread.start()
        for piece in streamer:
            print(piece, end="", flush=True)
        thread.join()
    print()


if __name__ == "__main__":
    main(*sys.argv[1:])
