"""Integer arithmetic of counts and layers: where a ratio becomes a number of tokens."""

from __future__ import annotations

from fractions import Fraction

from tokenreduce.errors import ConfigError

LayerSetting = int | float
"""A layer as it is written in a configuration: an index, or a fraction of the depth."""


def exact(ratio: float | int | Fraction) -> Fraction:
    """Return the decimal number that was written, not its binary neighbour.

    ``0.1`` in a configuration means one tenth; going through its shortest decimal form keeps
    ``10 * (1 - 0.9)`` at exactly 1.
    """
    return ratio if isinstance(ratio, Fraction) else Fraction(str(ratio))


def keep_count(total: int, ratio: float | Fraction) -> int:
    """Return how many of ``total`` tokens stay when the share ``ratio`` is removed.

    Parameters
    ----------
    total
        Number of tokens (or frames, or positions) there are, >= 0.
    ratio
        Share to remove, in [0, 1).

    Returns
    -------
    int
        ``total * (1 - ratio)`` rounded half up, never below 1 as long as there was one.

    Raises
    ------
    ConfigError
        If ``ratio`` lies outside [0, 1) or ``total`` is negative.
    """
    share = exact(ratio)
    if not 0 <= share < 1:
        raise ConfigError(f"ratio {ratio} is outside [0, 1): give the share of tokens to remove.")
    if total < 0:
        raise ConfigError(f"cannot keep a share of {total} tokens: the count must not be negative.")
    if total == 0:
        return 0
    return max(1, _round_half_up(total * (1 - share)))


def share_count(total: int, share: float | Fraction) -> int:
    """Return ``total * share`` rounded half up: a count given as a fraction of the original tokens.

    Raises
    ------
    ConfigError
        If ``share`` lies outside [0, 1].
    """
    part = exact(share)
    if not 0 <= part <= 1:
        raise ConfigError(f"share {share} is outside [0, 1].")
    return _round_half_up(total * part)


def resolve_layer(setting: LayerSetting, num_layers: int) -> int:
    """Return the 0-based index of the layer after which to act; -1 is before the first layer.

    Parameters
    ----------
    setting
        An integer index in [-1, num_layers - 1], or a float in (0, 1): a fraction of the depth,
        ``round(f * num_layers) - 1``, so that 9/32 is index 8 of 32 layers and 3 of 14.
    num_layers
        Decoder layers of the model.

    Raises
    ------
    ConfigError
        If the setting points outside the model.
    """
    if isinstance(setting, float) and not setting.is_integer():
        if not 0 < setting < 1:
            raise ConfigError(
                f"layer {setting} is neither an index nor a fraction of depth in (0, 1): "
                f"write an integer from -1 to {num_layers - 1}, or a fraction such as 0.25."
            )
        return round(setting * num_layers) - 1
    index = int(setting)
    if not -1 <= index < num_layers:
        raise ConfigError(
            f"layer {index} does not exist in a model of {num_layers} decoder layers: "
            f"use -1 (before the first) to {num_layers - 1}, or a fraction of depth."
        )
    return index


def resolve_layers(settings: tuple[LayerSetting, ...], num_layers: int) -> tuple[int, ...]:
    """Return the resolved layers, which must be written in ascending order.

    Raises
    ------
    ConfigError
        If a setting points outside the model, or two of them are out of order or meet on a layer.
    """
    layers = tuple(resolve_layer(setting, num_layers) for setting in settings)
    if len(set(layers)) != len(layers):
        raise ConfigError(
            f"layers {list(settings)} resolve to {list(layers)} on {num_layers} decoder layers: "
            "two reductions meet on one layer, so write indices for this model."
        )
    if list(layers) != sorted(layers):
        raise ConfigError(
            f"layers {list(settings)} are {list(layers)} of {num_layers} decoder layers, out of "
            "order: write them ascending."
        )
    return layers


def _round_half_up(value: Fraction) -> int:
    return int((value + Fraction(1, 2)) // 1)
