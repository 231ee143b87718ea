"""What the paper reports for its models: time to first token and Img-Memory of each method.

Source: "On Exploring Visual Attention Shrinking for Accelerating VLMs for Video Understanding"
(OpenReview oS79Tw3G0c), tables 1 to 4. Its times are of its own code on its own GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Published:
    """One row of the paper.

    Attributes
    ----------
    table
        Its table.
    ttft_speedup
        Time to first token without reduction over that with it.
    img_memory
        Visual tokens in the cache, as a share of the unreduced.
    settings
        What the paper's text or its memory figures give for this model and method, where it is not
        what the package ships; ``use`` names the reducer where the label does not.
    """

    table: int
    ttft_speedup: float
    img_memory: float
    settings: Mapping[str, Any]


def _tome(merged: int, visual: int, end: float = 24 / 32) -> dict[str, Any]:
    return {"r": merged / visual, "end_layer": end}


def _sweep() -> dict[str, Published]:
    """Return the rows of table 4: ratio and interval of VAS, from layer index 5 on."""
    reported = {
        (20, 3): (1.70, 0.427),
        (30, 3): (2.06, 0.396),
        (40, 3): (2.23, 0.325),
        (50, 3): (2.36, 0.278),
        (20, 4): (1.57, 0.590),
        (30, 4): (2.02, 0.424),
        (40, 4): (2.11, 0.379),
        (50, 4): (2.30, 0.308),
    }
    rows = {}
    for (percent, interval), (speedup, memory) in reported.items():
        settings = {"use": "vas", "ratio": percent / 100, "interval": interval, "start_layer": 5}
        rows[f"vas-{percent}-{interval}"] = Published(4, speedup, memory, settings)
    return rows


PAPER: Mapping[str, Mapping[str, Published]] = {
    "PLLaVA-7B": {
        "tome": Published(1, 1.48, 0.699, _tome(48, 2304)),
        "vcc": Published(1, 1.67, 0.531, {}),
        "fastv": Published(1, 1.46, 0.531, {}),
        "vas": Published(1, 1.87, 0.477, {}),
    },
    "VILA1.5-8B": {
        "tome": Published(1, 1.39, 0.701, _tome(36, 1568)),
        "vcc": Published(1, 1.74, 0.531, {}),
        "fastv": Published(1, 1.42, 0.531, {}),
        "vas": Published(1, 1.96, 0.485, {}),
        "random": Published(3, 1.22, 0.600, {}),
        "spatial_average": Published(3, 1.22, 0.600, {}),
        "temporal_average": Published(3, 1.22, 0.600, {}),
        **_sweep(),
    },
    "LongVA-7B": {
        "tome": Published(1, 1.61, 0.655, _tome(120, 4608, end=23)),
        "vcc": Published(1, 1.85, 0.536, {}),
        "fastv": Published(1, 1.33, 0.536, {}),
        "vas": Published(1, 2.10, 0.453, {"start_layer": 5}),
    },
    "VILA1.5-40B": {
        "vas": Published(2, 2.63, 0.371, {"start_layer": 14}),
        "vas*": Published(2, 4.16, 0.268, {"use": "vas", "start_layer": 8}),
        "fastv": Published(2, 1.53, 0.542, {"layer": 4}),
    },
}
"""The paper's model to its rows, by label."""
