"""From patch features to the language model's visual tokens: how published video models do it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool3d, avg_pool2d, pad

if TYPE_CHECKING:
    from collections.abc import Callable


class Connector(nn.Module):
    """Linear, GELU, Linear on every patch; subclasses merge patches before or after it.

    Parameters
    ----------
    config
        A :class:`tokenreduce.composed.ComposedConfig`.
    channels
        Width of what enters the first linear map; by default that of the vision tower.

    Attributes
    ----------
    order
        How the tokens of a frame follow one another; see :class:`tokenreduce.layout.Span`.
    """

    order: Literal["row", "column"] = "row"

    def __init__(self, config: Any, channels: int | None = None) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.linear_1 = nn.Linear(channels or config.vision_config.hidden_size, width)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(width, width)

    def grid(self, frames: int, side: int) -> tuple[int, int, int]:
        """Return frames, rows and columns of the tokens of a video of side x side patches."""
        return frames, side, side

    def forward(self, patches: Tensor) -> Tensor:
        """Return tokens ``[videos, frames, rows, columns, dim]`` of one video after the other.

        Parameters
        ----------
        patches
            ``[videos, frames, side, side, channels]``.
        """
        return self.mapped(patches)

    def mapped(self, patches: Tensor) -> Tensor:
        """Return ``[..., dim]`` for ``[..., channels]``."""
        tokens: Tensor = self.linear_2(self.act(self.linear_1(patches)))
        return tokens


class AdaptivePool(Connector):
    """Then averages a video to a fixed grid of frames x rows x columns (PLLaVA).

    A video of fewer frames has each repeated ``int(wanted / frames) + 1`` times, and what exceeds
    the grid's frames is cut off: the end of the video, where the one divides the other.
    Source: ``magic-research/PLLaVA: models/pllava/modeling_pllava.py``.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.pooled: tuple[int, int, int] = tuple(config.pooled)

    def grid(self, frames: int, side: int) -> tuple[int, int, int]:
        """Return the fixed grid."""
        return self.pooled

    def forward(self, patches: Tensor) -> Tensor:
        """See :meth:`Connector.forward`."""
        wanted, given = self.pooled[0], patches.shape[1]
        if given < wanted:
            patches = patches.repeat_interleave(wanted // given + 1, dim=1)[:, :wanted]
        tokens = self.mapped(patches).permute(0, 4, 1, 2, 3)
        return adaptive_avg_pool3d(tokens, self.pooled).permute(0, 2, 3, 4, 1)


class StridePool(Connector):
    """Then averages every 2 x 2 patches of a frame; an odd last row or column is left out (LongVA).

    Source: ``EvolvingLMMs-Lab/LongVA: longva/longva/model/llava_arch.py``.
    """

    stride = 2

    def grid(self, frames: int, side: int) -> tuple[int, int, int]:
        """Return half the rows and columns."""
        return frames, side // self.stride, side // self.stride

    def forward(self, patches: Tensor) -> Tensor:
        """See :meth:`Connector.forward`."""
        tokens = self.mapped(patches).flatten(0, 1).permute(0, 3, 1, 2)
        pooled: Tensor = avg_pool2d(tokens, self.stride).permute(0, 2, 3, 1)
        return pooled.reshape(*patches.shape[:2], *pooled.shape[1:])


class PatchStack(Connector):
    """First stacks the channels of every 2 x 2 patches of a frame and normalises them (VILA1.5).

    Top left, top right, bottom left, bottom right; zeros complete an odd last row and column. The
    tokens of a frame follow one another column by column.
    Source: ``NVlabs/VILA: llava/model/multimodal_projector/base_projector.py``.
    """

    order = "column"

    def __init__(self, config: Any) -> None:
        channels = 4 * config.vision_config.hidden_size
        super().__init__(config, channels)
        self.norm = nn.LayerNorm(channels)

    def grid(self, frames: int, side: int) -> tuple[int, int, int]:
        """Return half the rows and columns, rounded up."""
        return frames, (side + 1) // 2, (side + 1) // 2

    def forward(self, patches: Tensor) -> Tensor:
        """See :meth:`Connector.forward`."""
        videos, frames, side = patches.shape[:3]
        whole = pad(patches, (0, 0, 0, side % 2, 0, side % 2))
        half = whole.shape[2] // 2
        # [videos, frames, rows, columns, 2, 2, channels]
        squares = whole.reshape(videos, frames, half, 2, half, 2, -1).transpose(3, 4)
        return self.mapped(self.norm(squares.flatten(4)))


CONNECTORS: dict[str, Callable[[Any], Connector]] = {
    "adaptive_pool": AdaptivePool,
    "patch_stack": PatchStack,
    "stride_pool": StridePool,
}
