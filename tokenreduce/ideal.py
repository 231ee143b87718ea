"""What a prefill would take if only its matrix products and its attention took time.

The two rates are measured on the machine, in the run that they are used in, at the size of the full
prefill. Reduced layers have fewer rows, at which a machine is rather slower than faster per FLOP;
what that loses counts against a measured speedup, not against the ideal. Norms, rotary embedding,
activations, memory traffic and the work of a reducer take no time here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenreduce.cost import Cost, DecoderShape, Matrix, prefill_cost
from tokenreduce.measure import Call, time_to_first_token

if TYPE_CHECKING:
    import torch

    from tokenreduce.trace import Trace


@dataclass(frozen=True, slots=True)
class Rates:
    """FLOPs per second of matrix products and of attention, the latter over its causal half.

    Raises
    ------
    ValueError
        If one is not positive.
    """

    matmul_flops_per_second: float
    attention_flops_per_second: float

    def __post_init__(self) -> None:
        for name in ("matmul_flops_per_second", "attention_flops_per_second"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: a rate is above 0.")

    def seconds(self, matmul_flops: int, attention_flops: int) -> float:
        """Return the time that so many FLOPs take."""
        return (
            matmul_flops / self.matmul_flops_per_second
            + attention_flops / self.attention_flops_per_second
        )


def measure_rates(
    shape: DecoderShape,
    tokens: int,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    repeats: int = 5,
) -> Rates:
    """Measure both rates for one layer of a decoder, in turns; each is that of its fastest run.

    Parameters
    ----------
    shape
        Sizes of the decoder: the products are those of its last layer, one after the other, and the
        attention is torch's fused one, causal, with as many key heads as query heads.
    tokens
        Rows of the products and length of the attention: the tokens of the full prefill.
    dtype, device
        Of all tensors.
    repeats
        Timed runs of each.

    Raises
    ------
    ValueError
        If ``tokens`` or ``repeats`` is below 1.
    """
    import torch

    if tokens < 1:
        raise ValueError(f"tokens={tokens}: rates are measured over at least one token.")
    with torch.inference_mode():
        calls = {
            "products": _products(shape, tokens, dtype, device),
            "attention": _attention(shape, tokens, dtype, device),
        }
        fastest = time_to_first_token(calls, repeats=repeats, device=device)
    cost = prefill_cost(shape, [tokens] * shape.layers).layers[-1]
    return Rates(
        cost.matmul / fastest["products"].minimum, cost.attention / fastest["attention"].minimum
    )


def ideal_seconds(
    shape: DecoderShape,
    tokens_per_layer: Sequence[int],
    rates: Rates,
    past_per_layer: Sequence[int] = (),
) -> float:
    """Return the ideal time of a prefill that makes one token (see this module)."""
    return _seconds(prefill_cost(shape, tokens_per_layer, past_per_layer), rates)


def ideal_speedup(
    shape: DecoderShape, full: Sequence[int], reduced: Sequence[int], rates: Rates
) -> float:
    """Return how many times faster a reduced prefill would be in the ideal.

    Parameters
    ----------
    shape
        Sizes of the decoder.
    full, reduced
        Tokens of one sample that each layer runs over, text included.
    rates
        Of the machine.
    """
    return ideal_seconds(shape, full, rates) / ideal_seconds(shape, reduced, rates)


def trace_speedup(trace: Trace, rates: Rates) -> float:
    """Return the ideal speedup of a prefill that has run, over all samples of its batch."""
    full = rates.seconds(trace.flops_full - trace.attention_flops_full, trace.attention_flops_full)
    return full / rates.seconds(trace.flops - trace.attention_flops, trace.attention_flops)


def _seconds(cost: Cost, rates: Rates) -> float:
    return rates.seconds(cost.matmul_flops, cost.attention_flops)


def _products(shape: DecoderShape, tokens: int, dtype: Any, device: Any) -> Call:
    """Return the products of a layer; experts share the rows evenly, as routers are trained to."""
    import torch
    from torch.nn.functional import linear

    work = []
    for matrix in shape.matrices(shape.layers - 1):
        rows = _shared_rows(matrix, tokens)
        factors = torch.randn(max(rows), matrix.inputs, dtype=dtype, device=device)
        weight = torch.randn(matrix.outputs, matrix.inputs, dtype=dtype, device=device)
        work += [(factors[:count], weight) for count in rows]

    def run() -> None:
        for factors, weight in work:
            linear(factors, weight)

    return run


def _shared_rows(matrix: Matrix, tokens: int) -> list[int]:
    """Return the rows of each matrix that has any."""
    each, rest = divmod(tokens * matrix.per_token, matrix.stored)
    return [rows for i in range(matrix.stored) if (rows := each + (i < rest))]


def _attention(shape: DecoderShape, tokens: int, dtype: Any, device: Any) -> Call:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    query, key, value = torch.randn(
        3, 1, shape.heads, tokens, shape.head_dim, dtype=dtype, device=device
    )
    return lambda: scaled_dot_product_attention(query, key, value, is_causal=True)
