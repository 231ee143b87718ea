"""The embedded default: a tiny video VLM, its synthetic clips, its benchmark, its training script.

Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

from pathlib import Path

#: Directory of the shipped model, in the standard Hugging Face layout.
MODEL_DIR = Path(__file__).parent / "model"

__all__ = ["MODEL_DIR"]
