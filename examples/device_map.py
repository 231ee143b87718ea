"""Spread a checkpoint over the devices there are, with ``device_map="auto"`` of accelerate.

python examples/device_map.py [CHECKPOINT [CLIP [QUESTION]]]
"""

import sys
from pathlib import Path

from transformers import AutoModelForImageTextToText

import tokenreduce
from tokenreduce.embedded import MODEL_DIR
from tokenreduce.processing import PipelineProcessor

CLIP = str(Path(__file__).with_name("ring.mp4"))
QUESTION = "what color is the ring"


def main(folder: str = str(MODEL_DIR), clip: str = CLIP, question: str = QUESTION) -> None:
    """Print the answer, and where the parts of the model are."""
    # On the device `meta` no weight is read: it is for the processor alone.
    processor = PipelineProcessor(tokenreduce.load(folder, device="meta"))
    model = AutoModelForImageTextToText.from_pretrained(folder, device_map="auto").eval()
    content = [{"type": "video", "path": clip}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    ).to(model.device, dtype=model.dtype)
    with tokenreduce.reduce(model, "vas", ratio=0.3):
        tokens = model.generate(**inputs, max_new_tokens=16)
    answer = tokens[0, inputs["input_ids"].shape[1] :]
    print(processor.decode(answer, skip_special_tokens=True).strip())
    print(getattr(model, "hf_device_map", {"": str(model.device)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
