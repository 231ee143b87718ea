"""Load a model, encode a video once, and ask about it under any reducers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenreduce.config import EMBEDDED_MODEL
from tokenreduce.errors import AdapterError, ConfigError, TokenReduceError, UnsupportedError
from tokenreduce.names import suggestion

if TYPE_CHECKING:
    from torch import Tensor

    from tokenreduce.adapter import Checkpoint, ModelAdapter
    from tokenreduce.course import Variant
    from tokenreduce.reducer import Reducer
    from tokenreduce.session import Session
    from tokenreduce.trace import Trace
    from tokenreduce.trace_builder import Finished, Totals


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, ready to be asked, with the adapter of its family.

    Attributes
    ----------
    name
        What the user calls it.
    adapter, checkpoint
        The family's adapter, and what it loaded.
    device
        Where the model is.
    positions
        What becomes of position ids under reduction; see :func:`tokenreduce.reduce`.
    """

    name: str
    adapter: ModelAdapter
    checkpoint: Checkpoint
    device: str
    positions: str = "keep"

    @property
    def model(self) -> Any:
        """The transformers model, in ``eval()`` mode."""
        return self.checkpoint.model

    def inputs(
        self, frames: Tensor, question: str, times: Sequence[float] | None = None
    ) -> dict[str, Any]:
        """Return what the model's ``generate`` takes, for one question about one video.

        Parameters
        ----------
        frames
            ``[frames, height, width, 3]`` uint8 RGB, as :func:`tokenreduce.load_video` gives them.
        question
            The user's words.
        times
            Seconds of each frame, for families that write them into the prompt.
        """
        return EncodedVideo(self, frames, times).inputs(question)

    def decode(self, tokens: Tensor, inputs: Mapping[str, Any]) -> str:
        """Return the answer in what ``generate`` returned ``[1, tokens]`` for ``inputs``."""
        prompt = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        return self.checkpoint.processor.decode(tokens[0, prompt:]).strip()

    def session(
        self, reducers: Sequence[Reducer], seed: int = 0, *, others: Sequence[Variant] = ()
    ) -> Session:
        """Return a session of ``reducers`` on the model, not yet attached.

        ``others`` are more lists of reducers for the same prompts; see
        :class:`tokenreduce.session.Session`.
        """
        from tokenreduce.session import Session

        return Session(
            self.checkpoint.model,
            self.adapter,
            reducers,
            seed=seed,
            positions=self.positions,
            others=others,
        )


@dataclass(frozen=True, eq=False)
class Answer:
    """What the model said.

    Attributes
    ----------
    text
        Its words.
    finished
        What its prefill left.
    """

    text: str
    finished: Finished

    @cached_property
    def trace(self) -> Trace:
        """What became of each token in the prefill."""
        from tokenreduce.trace_builder import build_trace

        return build_trace(self.finished)

    @cached_property
    def totals(self) -> Totals:
        """The sums of the trace, which are quicker to be had."""
        from tokenreduce.trace_builder import sum_up

        return sum_up(self.finished)


def pick_device(name: str) -> str:
    """Return the device that ``name`` means; ``auto`` is CUDA where there is one, else the CPU.

    Raises
    ------
    ConfigError
        If this machine, or this build of torch, does not have the device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # how torch says so depends on its build
        said = str(error).splitlines()[0]
        raise ConfigError(
            f"device '{name}' cannot be used here ({said}): give 'auto' or 'cpu'."
        ) from error
    return name


def load(
    name: str = EMBEDDED_MODEL,
    *,
    dtype: str = "float32",
    device: str = "auto",
    positions: str = "keep",
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load the embedded model or a checkpoint folder, with what is needed to talk to it.

    Parameters
    ----------
    name
        ``embedded``, or a folder with a ``config.json`` whose family an adapter claims.
    dtype, device
        Of weights and activations.
    positions
        See :func:`tokenreduce.reduce`.
    options
        Choices of the model's family, such as PLLaVA's ``lora_alpha``; its page names them.

    Raises
    ------
    ConfigError
        If there is no such checkpoint, device or option.
    AdapterError
        If no adapter claims the model, or it cannot be loaded.
    """
    from tokenreduce.plugins import load_plugins

    adapters = load_plugins().registry.adapters
    return load_model(
        name, adapters, dtype=dtype, device=device, positions=positions, options=options
    )


def load_model(
    name: str,
    adapters: Mapping[str, type[ModelAdapter]],
    *,
    dtype: str,
    device: str,
    positions: str = "keep",
    options: Mapping[str, Any] | None = None,
) -> Loaded:
    """Load the embedded model or a checkpoint directory with the adapter that claims it.

    Parameters
    ----------
    name
        ``embedded``, or a directory with a ``config.json``.
    adapters
        Adapter classes by name.
    dtype, device
        Of weights and activations; see :class:`tokenreduce.config.CommonSettings`.
    positions
        What becomes of position ids under reduction.
    options
        Keyword parameters of the adapter's ``load``.

    Raises
    ------
    ConfigError
        If there is no such checkpoint or option.
    AdapterError
        If no adapter claims its ``model_type``, or it cannot be loaded.
    UnsupportedError
        If none can: reduction would not be exact on this family.
    """
    directory, adapter = find_checkpoint(name, adapters)
    where = pick_device(device)
    _check_options(adapter, options or {})
    with _told_by(directory, adapter.name):
        checkpoint = adapter.load(directory, dtype=dtype, device=where, **(options or {}))
    known = name if name == EMBEDDED_MODEL else checkpoint.name
    return Loaded(known, adapter, checkpoint, where, positions)


def find_checkpoint(
    name: str, adapters: Mapping[str, type[ModelAdapter]]
) -> tuple[Path, ModelAdapter]:
    """Return the directory of a model and the adapter that claims it; no weight is read.

    Raises
    ------
    ConfigError, AdapterError, UnsupportedError
        As :func:`load_model`.
    """
    directory = _directory(name)
    file = directory / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        model_type = str(config["model_type"])
    except OSError as error:
        raise ConfigError(
            f"model '{name}' is no checkpoint directory: '{file}' cannot be read "
            f"({error.strerror}); give 'embedded' or a directory that holds a config.json."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"'{file}' is no model configuration: it has no model_type.") from error
    with _told_by(file, model_type):
        claiming = [cls for cls in adapters.values() if cls.claims(config)]
    if not claiming:
        from tokenreduce.adapter import require_reducible

        require_reducible(model_type)
        types = sorted(t for cls in adapters.values() for t in cls.model_types)
        raise AdapterError(
            f"no adapter claims the model_type '{model_type}' of '{name}': "
            f"{suggestion(model_type, types)}"
        )
    return directory, claiming[0]()


@contextmanager
def _told_by(place: Path, who: str) -> Iterator[None]:
    """Turn what a wrong value in a checkpoint's files runs into, wherever, into one error."""
    try:
        yield
    except TokenReduceError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise AdapterError(
            f"{place}: cannot be read as a '{who}' ({type(error).__name__}: {error}): a setting in "
            "its files is missing or of a wrong type; compare it with the published checkpoint."
        ) from error


def _check_options(adapter: ModelAdapter, options: Mapping[str, Any]) -> None:
    """Check that a family knows the options; raises :class:`ConfigError`."""
    known = [name for name in signature(adapter.load).parameters if name not in _LOAD_PARAMETERS]
    for name in options:
        if name not in known:
            said = suggestion(name, known) if known else "this family has no options."
            raise ConfigError(f"the adapter '{adapter.name}' has no option '{name}': {said}")


_LOAD_PARAMETERS = ("directory", "dtype", "device")


class EncodedVideo:
    """One video for one model: the vision tower runs at the first question only.

    Parameters
    ----------
    loaded
        The model.
    frames
        ``[frames, height, width, 3]`` uint8 RGB.
    times
        Seconds of each frame; see :meth:`tokenreduce.adapter.Processor.video_inputs`.
    """

    def __init__(
        self, loaded: Loaded, frames: Tensor, times: Sequence[float] | None = None
    ) -> None:
        self._loaded, self._frames, self._times = loaded, frames, times
        self._features: dict[str, Any] | None = None
        self._replaced: frozenset[str] = frozenset()

    def inputs(self, question: str) -> dict[str, Any]:
        """Return the inputs of ``generate`` for one question, on the model's device."""
        import torch

        model, processor = self._loaded.checkpoint.model, self._loaded.checkpoint.processor
        raw = placed(self._loaded, processor.video_inputs(self._frames, question, self._times))
        if self._features is not None:
            return {k: v for k, v in raw.items() if k not in self._replaced} | self._features
        with torch.no_grad():
            encoded = self._loaded.adapter.encode_video(model, raw)
        added = {name: value for name, value in encoded.items() if name not in raw}
        # What an adapter adds are features of the video, unless it has spliced in the words.
        if added and "inputs_embeds" not in added:
            self._features, self._replaced = added, frozenset(raw.keys() - encoded.keys())
        return encoded


def placed(loaded: Loaded, raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what a processor made on the model's device, activations in its number format."""
    dtype = next(loaded.checkpoint.model.parameters()).dtype
    return {
        # Plain numbers, such as the seconds of a frame, are no activations: they stay exact.
        name: value.to(
            loaded.device, dtype if value.is_floating_point() and value.dim() > 1 else None
        )
        for name, value in raw.items()
    }


def answer(
    loaded: Loaded,
    inputs: Mapping[str, Any],
    reducers: Sequence[Reducer],
    *,
    seed: int = 0,
    max_new_tokens: int = 16,
) -> Answer:
    """Let the model answer greedily under ``reducers``.

    Parameters
    ----------
    loaded
        The model.
    inputs
        From :meth:`EncodedVideo.inputs`.
    reducers
        Composed in order; none leaves the model as it is.
    seed
        Of the reducers' random choices.
    max_new_tokens
        Longest answer.
    """
    (said,) = answer_each(loaded, inputs, [(reducers, seed)], max_new_tokens=max_new_tokens)
    if isinstance(said, Exception):
        raise said
    return said


def answer_each(
    loaded: Loaded,
    inputs: Mapping[str, Any],
    variants: Sequence[tuple[Sequence[Reducer], int]],
    *,
    max_new_tokens: int = 16,
    then: str | None = None,
) -> list[Answer | Exception]:
    """Let the model answer greedily under several lists of reducers, as :func:`answer` does each.

    What their prefills have in common is computed once: layers run for all lists whose plans have
    been equal so far, and so do decoding steps, for those that never part.

    Parameters
    ----------
    loaded
        The model.
    inputs
        From :meth:`EncodedVideo.inputs`.
    variants
        Reducers composed in order, and the seed of their random choices; at least one.
    max_new_tokens
        Longest answer.
    then
        Another question, asked as a second turn of the same conversation, on the cache that the
        first one left. Its answer is the one that counts; what is left of the visual tokens is
        still what the first prefill left.

    Returns
    -------
    list
        For each variant its answer, or what it failed with; one's failure is not the others'.
    """
    from tokenreduce.course import Variant
    from tokenreduce.sharing import run_each

    (reducers, seed), *others = variants
    session = loaded.session(reducers, seed, others=[Variant(*other) for other in others])
    outcomes = run_each(session, lambda: _said(loaded, inputs, max_new_tokens, then))
    return [
        outcome if isinstance(outcome, Exception) else Answer(outcome.result, outcome.finished)
        for outcome in outcomes
    ]


def first_token(
    loaded: Loaded, inputs: Mapping[str, Any], reducers: Sequence[Reducer], *, seed: int = 0
) -> Callable[[], None]:
    """Return a call that makes one token under ``reducers``, to be timed or watched."""

    def call() -> None:
        with loaded.session(reducers, seed).attached():
            generate(loaded, inputs, 1)

    return call


def _said(loaded: Loaded, inputs: Mapping[str, Any], max_new_tokens: int, then: str | None) -> str:
    """Let the model answer, and if there is another question answer that one."""
    if then is None:
        return loaded.decode(generate(loaded, inputs, max_new_tokens), inputs)
    if "input_ids" not in inputs:
        raise UnsupportedError(
            f"the adapter '{loaded.adapter.name}' gives embeddings instead of token ids: a second "
            "question cannot be asked in the same conversation."
        )
    following = loaded.checkpoint.processor.next_turn(then)
    first = generate(loaded, inputs, max_new_tokens, return_dict_in_generate=True)
    second = second_prompt(loaded.model, first.sequences, following)
    tokens = generate(loaded, second, max_new_tokens, past_key_values=first.past_key_values)
    return loaded.decode(tokens, second)


def second_prompt(model: Any, sequence: Tensor, following: Sequence[int]) -> dict[str, Tensor]:
    """Return the prompt of a second turn.

    Parameters
    ----------
    model
        Its ``generation_config`` says which ids end an answer.
    sequence
        ``[1, tokens]`` of the first turn, prompt and answer.
    following
        See :meth:`tokenreduce.adapter.Processor.next_turn`.
    """
    import torch

    ends = model.generation_config.eos_token_id
    known = ends if isinstance(ends, list) else [ends]
    # What ended the answer is not in the cache, and the template writes its own.
    answered = sequence[:, :-1] if int(sequence[0, -1]) in known else sequence
    tail = torch.tensor([list(following)], dtype=sequence.dtype, device=sequence.device)
    ids = torch.cat([answered, tail], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def generate(loaded: Loaded, inputs: Mapping[str, Any], max_new_tokens: int, **options: Any) -> Any:
    """Return what the model's own ``generate`` gives, greedily."""
    model: Any = loaded.checkpoint.model
    return model.generate(
        **inputs, max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, **options
    )


def _directory(name: str) -> Path:
    if name != EMBEDDED_MODEL:
        return Path(name)
    from tokenreduce.embedded import MODEL_DIR

    return MODEL_DIR
