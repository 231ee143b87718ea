"""What a bench ran on, and what that machine can do."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenreduce.bench.subject import Subject


def machine(device: str) -> dict[str, Any]:
    """Return versions and hardware, in JSON types."""
    import torch
    import transformers

    from tokenreduce.plugins import own_version

    found = {
        "tokenreduce": own_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def flash_attention(device: str) -> bool:
    """Return whether flash-attention can be used on ``device``."""
    from transformers.utils import is_flash_attn_2_available

    installed: bool = is_flash_attn_2_available()
    return installed and device.startswith("cuda")


def fits(subject: Subject) -> bool:
    """Return whether eager attention of one layer fits in half of the free memory."""
    shape, element = subject.shape, subject.dtype.itemsize
    # The scores, the same with the mask added, their softmax in float32, and its copy.
    needed: int = shape.heads * subject.tokens**2 * (3 * element + 4)
    return needed < _free_bytes(subject.device) / 2


def _free_bytes(device: str) -> int:
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _processor() -> str:
    """Return the processor's name where the system says it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
