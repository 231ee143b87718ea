"""Settings that all tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Run torch on one thread: tiny tensors lose more to a second one than they gain."""
    import torch

    torch.set_num_threads(1)
