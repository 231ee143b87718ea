"""Engines: where units of work are done, and how they come back to the one that writes.

An engine is made by :func:`engine`. Whatever it is, records stream to the process that runs it,
which alone writes them; units are handed out one by one, and those of a lost worker again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from tokenreduce.engines.pool import Engine
from tokenreduce.engines.work import Failure, Progress, Status, Write
from tokenreduce.errors import ConfigError
from tokenreduce.names import suggestion

__all__ = [
    "ENGINES",
    "Engine",
    "Failure",
    "Progress",
    "Status",
    "Write",
    "engine",
    "visible_devices",
]

ENGINES = ("local", "ray")
_SMALL = 4  # workers by default for the embedded model: its prefill takes milliseconds


def engine(
    name: str = "local",
    workers: int | None = None,
    *,
    device: str = "auto",
    small: bool = False,
    address: str | None = None,
    gpus: float | None = None,
    cpus: float | None = None,
) -> Engine:
    """Make an engine; nothing is started yet.

    Parameters
    ----------
    name
        ``local``: processes on this machine. ``ray``: actors on a Ray cluster.
    workers
        How many; 0: in the calling process (``local`` only). By default one per CUDA device, and
        where there is none one, or for a small model one per core, at most four of them. On a Ray
        cluster as many as it has room for.
    device
        Where the models will be, as in a configuration.
    small
        Whether the models are so small that several fit on one processor.
    address
        Ray only: the cluster. By default that of ``RAY_ADDRESS``, else one is started on the
        loopback address of this machine and ended with the engine.
    gpus, cpus
        Ray only: GPUs (a fraction: several workers share one) and processor cores per worker.

    Raises
    ------
    ConfigError
        If there is no such engine, a setting does not belong to it, or Ray is not installed.
    """
    if name not in ENGINES:
        raise ConfigError(f"there is no engine '{name}': {suggestion(name, ENGINES)}")
    if workers is not None and workers < (0 if name == "local" else 1):
        raise ConfigError(f"{workers} workers cannot be had from the engine '{name}': give 1.")
    if name == "ray":
        from tokenreduce.engines.ray import RayEngine

        return RayEngine(workers, device=device, small=small, address=address, gpus=gpus, cpus=cpus)
    for setting, value in (("address", address), ("gpus", gpus), ("cpus", cpus)):
        if value is not None:
            raise ConfigError(f"'{setting}' is a setting of the engine 'ray': leave it out.")
    return _local(workers, device, small)


def _local(workers: int | None, device: str, small: bool) -> Engine:
    if workers == 0:
        from tokenreduce.engines.inline import InlineEngine

        return InlineEngine()
    from tokenreduce.engines.local import LocalEngine, cores

    devices = visible_devices(device)
    default = len(devices) or (min(cores(), _SMALL) if small else 1)
    return LocalEngine(default if workers is None else workers, devices)


def visible_devices(device: str) -> Sequence[str]:
    """Return the CUDA devices to share out, named as in ``CUDA_VISIBLE_DEVICES``.

    Parameters
    ----------
    device
        ``auto`` and ``cuda`` mean any of them; there are none to share out for other values.
    """
    if device not in ("auto", "cuda"):
        return ()
    import torch

    count = torch.cuda.device_count()
    named = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return named[:count] if any(named) else [str(index) for index in range(count)]
