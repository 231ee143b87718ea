"""Write clips as mp4 files: bit-exact H.264, one thread, and nothing half-written is ever left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

SCALE = 4  # 64 px become 256 px, so that compression does not eat small shapes
FPS = 8
CRF = 18
CACHE_VARIABLE = "TOKENREDUCE_CACHE"


def cache_dir() -> Path:
    """Folder for rendered files: `$TOKENREDUCE_CACHE`, or `~/.cache/tokenreduce`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "tokenreduce"


def write_mp4(path: Path, frames: npt.NDArray[np.uint8]) -> None:
    """Encode frames, enlarged 4 x, and put the file in place in one step.

    Parameters
    ----------
    path : Path
        Where the file goes; its folder must exist.
    frames : uint8 [frames, height, width, 3]
        RGB.
    """
    import av
    import numpy as np

    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    try:
        with av.open(
            str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}
        ) as container:
            options = {"crf": str(CRF), "preset": "veryfast", "threads": "1", "flags": "+bitexact"}
            stream = container.add_stream("libx264", rate=FPS, options=options)
            stream.thread_count = 1
            stream.pix_fmt = "yuv420p"
            stream.height, stream.width = frames.shape[1] * SCALE, frames.shape[2] * SCALE
            for picture in frames:
                large = np.repeat(np.repeat(picture, SCALE, axis=0), SCALE, axis=1)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(large), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
