"""How a task of lmms-eval wants answers to be generated, and generating them, several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tokenreduce.cost import prefill_cost
from tokenreduce.errors import UnsupportedError
from tokenreduce.lmms.records import Answered
from tokenreduce.names import suggestion

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.inference import Loaded
    from tokenreduce.reducer import Reducer

PASSED_ON = ("top_p", "top_k", "num_beams", "repetition_penalty", "length_penalty")
READ = ("max_new_tokens", "until", "do_sample", "temperature", "seed")
#: How LLaVA's own code cuts images: here pictures are prepared as the checkpoint says.
WITHOUT_MEANING = ("image_aspect_ratio",)
SAMPLING = ("top_p", "top_k")


@dataclass(frozen=True, slots=True)
class Generation:
    """How an answer is to be generated.

    Attributes
    ----------
    max_new_tokens
        Longest answer.
    until
        Texts that end it; they are not part of it.
    options
        Further arguments of ``generate``.
    """

    max_new_tokens: int
    until: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn at random."""
        return bool(self.options.get("do_sample"))

    def cut(self, text: str) -> str:
        """Return ``text`` up to the first of the texts that end it."""
        ends = [place for end in self.until if (place := text.find(end)) >= 0]
        return text[: min(ends)].rstrip() if ends else text


def parse_generation(given: Mapping[str, Any], max_new_tokens: int) -> Generation:
    """Return what a task's ``generation_kwargs`` ask for.

    Parameters
    ----------
    given
        As in the task's YAML. A temperature of 0 is greedy, whatever else is set; one above 0
        without ``do_sample`` samples.
    max_new_tokens
        Longest answer where they do not say.

    Raises
    ------
    UnsupportedError
        For settings that nothing here knows.
    """
    known = (*READ, *PASSED_ON, *WITHOUT_MEANING)
    for name in given:
        if name not in known:
            raise UnsupportedError(
                f"the task's generation_kwargs have '{name}', which cannot be honoured: "
                f"{suggestion(name, known)}"
            )
    values = {name: value for name, value in given.items() if value is not None}
    temperature = float(values.get("temperature", 0))
    sampled = bool(values.get("do_sample", True)) and temperature > 0
    options = {
        name: values[name]
        for name in PASSED_ON
        if name in values and (sampled or name not in SAMPLING)
    }
    drawn = {"do_sample": True, "temperature": temperature} if sampled else {"do_sample": False}
    until = values.get("until", ())
    ends = (until,) if isinstance(until, str) else tuple(map(str, until))
    return Generation(
        int(values.get("max_new_tokens", max_new_tokens)),
        tuple(end for end in ends if end),
        {"num_beams": 1, **options, **drawn},
    )


def generate(
    loaded: Loaded,
    inputs: Mapping[str, Any],
    reducers: Sequence[Reducer],
    settings: Generation,
    seed: int,
) -> list[Answered]:
    """Answer the questions of one batch.

    Parameters
    ----------
    loaded
        The model.
    inputs
        Of ``generate``, with ``attention_mask`` ``[batch, tokens]``; videos may be features.
    reducers
        Composed in order; none leaves the model as it is.
    settings
        The same for all.
    seed
        Of the reducers' random choices.
    """
    import torch

    model, synchronise = loaded.model, _wait(loaded.device)
    synchronise()
    began = perf_counter()
    watch = _first_token(began, synchronise)
    with loaded.session(reducers, seed).attached() as run, torch.no_grad():
        tokens = model.generate(
            **inputs,
            **settings.options,
            max_new_tokens=settings.max_new_tokens,
            stopping_criteria=[watch],
        )
        synchronise()
        seconds = perf_counter() - began
        trace = run.trace
    prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
    lengths = [int(length) for length in inputs["attention_mask"].sum(1)]
    beams = len(trace.visual_tokens) // len(lengths)  # rows of the prefill for each question
    kept = trace.kept_positions()
    answers = []
    for number, (row, length) in enumerate(zip(tokens[:, prompt:], lengths, strict=True)):
        sample = number * beams
        said = row[: _length(row, model.generation_config.eos_token_id)]
        answer = Answered(
            text=settings.cut(loaded.checkpoint.processor.decode(said).strip()),
            visual_tokens=trace.visual_tokens[sample],
            tokens_per_layer=trace.tokens_per_layer[sample],
            flops_ratio=flops_ratio(loaded, [len(layer[sample]) for layer in kept], length),
            ttft=watch.seconds,
            seconds=seconds,
            input_tokens=length,
            output_tokens=len(said),
            batch=len(lengths),
        )
        answers.append(answer)
    return answers


def flops_ratio(loaded: Loaded, tokens_per_layer: Sequence[int], length: int) -> float:
    """Return the FLOPs of one question's prefill as a share of the unreduced one's.

    Parameters
    ----------
    loaded
        The model.
    tokens_per_layer
        Tokens that each layer ran over, text included and padding left out.
    length
        Tokens of the prompt, padding left out.
    """
    shape = loaded.adapter.decoder_shape(loaded.model)
    full = prefill_cost(shape, [length] * shape.layers)
    return prefill_cost(shape, tokens_per_layer).total / full.total


def _length(row: Tensor, ends: int | Sequence[int] | None) -> int:
    """Return how many tokens of a row were generated: others in the batch may have had more."""
    known = [ends] if isinstance(ends, int) else list(ends or ())
    ids = row.tolist()
    return next((place + 1 for place, token in enumerate(ids) if token in known), len(ids))


def _first_token(began: float, synchronise: Any) -> Any:
    """Return a criterion that stops nothing and knows when the first token was there."""
    import torch
    from transformers import StoppingCriteria

    class FirstToken(StoppingCriteria):  # type: ignore[misc] # Any, by mypy's configuration
        seconds: float | None = None

        def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
            if self.seconds is None:
                synchronise()
                self.seconds = perf_counter() - began
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return FirstToken()


def _wait(device: str) -> Any:
    if device.startswith("cuda"):
        import torch

        return lambda: torch.cuda.synchronize(device)
    return lambda: None
