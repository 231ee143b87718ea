"""PLLaVA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.adapters.clips import VIDEO, Clips, probes, tiny, unmixed
from tests.adapters.family import FamilyCase
from tests.adapters.published import write_json, write_shards
from tokenreduce_model_adapters.pllava import Pllava

CLIPS = Clips(frames=4)


def model() -> Any:
    return tiny("pllava", {"model_type": "llama"}, "adaptive_pool", pooled=(4, 2, 2))


def save(model: Any, folder: Path) -> None:
    """Write the model as it is published, with updates that are zero."""
    tensors = {}
    for name, tensor in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "language_model":
            old = f"language_model.base_model.model.{rest}"
            if rest.endswith(("q_proj.weight", "v_proj.weight")):
                module = old.removesuffix(".weight")
                tensors[f"{module}.base_layer.weight"] = tensor
                tensors[f"{module}.lora_A.default.weight"] = torch.zeros(2, tensor.shape[1])
                tensors[f"{module}.lora_B.default.weight"] = torch.zeros(tensor.shape[0], 2)
                continue
        else:
            old = {
                "vision_tower": f"vision_tower.vision_model.{rest}",
                "connector": f"multi_modal_projector.{rest}",
            }[part]
        tensors[old] = tensor.contiguous()
    write_shards(folder, tensors)
    config = {
        "architectures": ["PllavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": VIDEO,
        "text_config": model.config.text_config.to_dict(),
        "vision_config": model.config.vision_config.to_dict(),
    }
    write_json(folder / "config.json", config)


CASES = (
    FamilyCase(
        "pllava",
        Pllava(),
        model,
        {"video": CLIPS.video, "text": CLIPS.text, "ragged": CLIPS.ragged},
        features=("get_video_features",),
        probes=probes,
        unmixed=unmixed,
        probed=("video",),
        save=save,
    ),
)
