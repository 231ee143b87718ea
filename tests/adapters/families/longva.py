"""LongVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.adapters.clips import Clips, probes, tiny, unmixed
from tests.adapters.family import FamilyCase
from tests.adapters.published import write_json, write_shards, write_tokenizer
from tokenreduce_model_adapters.longva import LongVa

CLIPS = Clips(frames=4)


def model() -> Any:
    return tiny("longva", {"model_type": "qwen2"}, "stride_pool")


def save(model: Any, folder: Path) -> None:
    """Write the model as it is published, with a tokenizer, which the loader needs first."""
    names = {
        "language_model.": "",
        "vision_tower.": "model.vision_tower.vision_tower.vision_model.",
        "connector.linear_1.": "model.mm_projector.0.",
        "connector.linear_2.": "model.mm_projector.2.",
    }
    tensors = {
        old + name.removeprefix(new): tensor.contiguous()
        for name, tensor in model.state_dict().items()
        for new, old in names.items()
        if name.startswith(new)
    }
    write_shards(folder, tensors)
    write_tokenizer(folder, ["<|im_start|>", "<|im_end|>"])
    config = {**model.config.text_config.to_dict(), "model_type": "llava_qwen"}
    write_json(folder / "config.json", config)


CASES = (
    FamilyCase(
        "longva",
        LongVa(),
        model,
        {"video": CLIPS.video, "text": CLIPS.text, "ragged": CLIPS.ragged},
        features=("get_video_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("video",),
        save=save,
    ),
)
