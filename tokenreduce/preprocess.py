"""Turn decoded frames into the pixel values a vision tower expects, with torch alone.

Every video processor of transformers needs torchvision; an installed torchvision that does not
match torch breaks transformers altogether. On uint8 frames `interpolate` with antialiasing is
bit-exact with those processors, so this one is used always and gives the same numbers everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tokenreduce.errors import AdapterError
from tokenreduce.pretrained import read_json

if TYPE_CHECKING:
    import torch

# Newer checkpoints keep video and image settings in one file, older ones in a file of their own.
_PLACES = (
    ("processor_config.json", "video_processor"),
    ("video_preprocessor_config.json", None),
    ("processor_config.json", "image_processor"),
    ("preprocessor_config.json", None),
)
_RESAMPLE = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbers, which checkpoints store


class Size(BaseModel):
    """A height and width, or the length of the shorter edge, in pixels."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    height: int | None = Field(None, gt=0, description="pixels")
    width: int | None = Field(None, gt=0, description="pixels")
    shortest_edge: int | None = Field(None, gt=0, description="pixels; keeps the aspect ratio")

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Target height and width in pixels of a frame of this height and width."""
        if self.shortest_edge is None:
            assert self.height is not None
            assert self.width is not None
            return self.height, self.width
        edge, short = self.shortest_edge, min(height, width)
        return edge * height // short, edge * width // short


class FramePreprocessor(BaseModel):
    """Resize, crop, rescale and normalise frames as a checkpoint's processor files say.

    Attributes
    ----------
    size : Size
        `{height, width}` or `{shortest_edge}`, in pixels.
    mean, std : tuple of float
        Per RGB channel, of values rescaled to 0..1.
    rescale : float
        Factor applied to the grey levels 0..255 before mean and std.
    resample : str
        `bilinear`, `bicubic` or `lanczos`, always antialiased.
    crop : Size or None
        Centre crop after resizing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Size
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    rescale: float = Field(1 / 255, gt=0)
    resample: Literal["bilinear", "bicubic", "lanczos"] = "bicubic"
    crop: Size | None = None

    @classmethod
    def from_directory(cls, path: str | Path) -> FramePreprocessor:
        """Read the settings from a checkpoint directory; see :func:`processor_settings`.

        Raises
        ------
        AdapterError
            There are none, or they are not usable.
        """
        values, where = processor_settings(path)
        settings: dict[str, Any] = {
            "size": _size(values.get("size"), where, "size"),
            "mean": None,
            "std": None,
            **pixel_settings(values),
        }
        if values.get("do_center_crop"):
            settings["crop"] = _size(values.get("crop_size"), where, "crop_size")
        return cls.from_settings(settings, where)

    @classmethod
    def from_settings(cls, settings: dict[str, Any], where: str) -> FramePreprocessor:
        """Return what settings that were read from the place `where` say.

        Raises
        ------
        AdapterError
            They are not usable.
        """
        try:
            return cls(**settings)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise AdapterError(f"{where}: {field}: {first['msg']} ({first['input']!r}).") from error

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Pixel values of frames.

        Parameters
        ----------
        frames : torch.Tensor
            uint8 [frames, height, width, 3], RGB.

        Returns
        -------
        torch.Tensor
            float32 [frames, 3, h, w].
        """
        import torch

        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise ValueError(
                f"frames must be uint8 [frames, height, width, 3], not {frames.dtype} "
                f"{list(frames.shape)}."
            )
        frames = resized(frames, self.size.of(*frames.shape[1:3]), self.resample)
        pixels = frames.permute(0, 3, 1, 2)
        if self.crop is not None:
            pixels = _centre_crop(pixels, *self.crop.of(*pixels.shape[-2:]))
        shape = (3, 1, 1)
        # Multiplied, not divided: it is how transformers rounds.
        mean = torch.tensor(self.mean, device=pixels.device).view(shape) * (1 / self.rescale)
        std = torch.tensor(self.std, device=pixels.device).view(shape) * (1 / self.rescale)
        return (pixels.float() - mean) / std


def resized(frames: torch.Tensor, size: tuple[int, int], resample: str = "bicubic") -> torch.Tensor:
    """Frames uint8 [frames, height, width, 3] in another size, resampled with antialiasing."""
    from torch.nn.functional import interpolate

    if size == tuple(frames.shape[1:3]):
        return frames
    # uint8 rounds where the processors of transformers do; a float tensor would not.
    pixels = interpolate(frames.permute(0, 3, 1, 2), size, mode=resample, antialias=True)
    return pixels.permute(0, 2, 3, 1)


def processor_settings(path: str | Path) -> tuple[dict[str, Any], str]:
    """Return the settings of a checkpoint's video processor, and where they stand.

    Looks for `video_processor` in `processor_config.json`, `video_preprocessor_config.json`,
    `image_processor` in `processor_config.json`, and `preprocessor_config.json`, in this order.

    Raises
    ------
    AdapterError
        None of them is there, or one holds no usable settings.
    """
    directory = Path(path)
    for name, key in _PLACES:
        values: Any = _read(directory / name)
        if key is not None and values is not None:
            values = values.get(key)
        if values is None:
            continue
        where = str(directory / name) if key is None else f"{directory / name} ({key})"
        if not isinstance(values, dict):
            raise AdapterError(
                f"{where}: holds {type(values).__name__}, not a mapping of settings."
            )
        if values.get("do_resize", True) is False:
            raise AdapterError(f"{where}: do_resize=false is not supported; frames need one size.")
        return values, where
    names = ", ".join(dict.fromkeys(name for name, _ in _PLACES))
    raise AdapterError(
        f"{directory}: no frame preprocessor settings found; one of {names} is needed."
    )


def pixel_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `FramePreprocessor` but the sizes that processor settings give."""
    found: dict[str, Any] = {}
    if not _on(values, "do_rescale"):
        found["rescale"] = 1.0
    elif "rescale_factor" in values:
        found["rescale"] = values["rescale_factor"]
    if "resample" in values:
        found["resample"] = _RESAMPLE.get(values["resample"])
    if not _on(values, "do_normalize"):
        return {**found, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    named = {"mean": "image_mean", "std": "image_std"}
    return found | {field: values[name] for field, name in named.items() if name in values}


def _on(values: dict[str, Any], switch: str) -> bool:
    return values.get(switch, True) is not False


def _read(file: Path) -> dict[str, Any] | None:
    """Read the mapping in a JSON file; None where there is no such file."""
    return read_json(file) if file.exists() else None


def _size(value: Any, where: str, key: str) -> Size:
    """Read a size as checkpoints write it: a mapping, or one number for a square."""
    try:
        size = Size(height=value, width=value) if isinstance(value, int) else Size(**(value or {}))
    except (TypeError, ValidationError) as error:
        raise AdapterError(f"{where}: {key}={value!r} is not a size in pixels.") from error
    if size.shortest_edge is None and (size.height is None or size.width is None):
        raise AdapterError(
            f"{where}: {key}={value!r} has neither height and width nor shortest_edge."
        )
    return size


def _centre_crop(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Cut the middle out of [frames, 3, h, w], padded with black where it is smaller."""
    from torch.nn.functional import pad

    rows, columns = max(0, height - pixels.shape[-2]), max(0, width - pixels.shape[-1])
    if rows or columns:
        pixels = pad(pixels, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    top, left = (pixels.shape[-2] - height) // 2, (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]
