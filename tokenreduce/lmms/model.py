"""The model that lmms-eval runs: ``lmms-eval eval --model tokenreduce``."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Self
from zlib import crc32

from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.model_utils.gen_metrics import log_metrics
from lmms_eval.utils import get_datetime_str, sanitize_model_name, simple_parse_args_string

from tokenreduce.errors import ConfigError, TokenReduceError, UnsupportedError
from tokenreduce.lmms.arguments import Arguments, parse_arguments
from tokenreduce.lmms.asking import Asked, Asker, failed
from tokenreduce.lmms.generation import parse_generation
from tokenreduce.lmms.messages import read_messages
from tokenreduce.lmms.records import Answered, line_of, means, write_records

BAD_REQUEST = 2
"""Exit code of a run whose arguments are wrong, as of our own commands."""


class TokenReduce(lmms):
    """A chat model of lmms-eval: any family with an adapter, under any reducers.

    Parameters
    ----------
    **given
        See :func:`tokenreduce.lmms.arguments.parse_arguments`.
    """

    is_simple = False

    def __init__(self, **given: Any) -> None:
        super().__init__()
        try:
            self._start(parse_arguments(given))
        except TokenReduceError as error:
            stop(error)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: Mapping[str, Any] | None = None
    ) -> Self:
        """Make the model from ``--model_args``; they go before lmms-eval's own options."""
        try:
            given = simple_parse_args_string(arg_string)
        except ValueError:
            stop(
                ConfigError(
                    f"--model_args '{arg_string}': write NAME=VALUE, with commas in between and no "
                    "spaces."
                )
            )
        options = {k: v for k, v in (additional_config or {}).items() if v is not None}
        return cls(**{**options, **given})

    def _start(self, arguments: Arguments) -> None:
        from tokenreduce.inference import load_model

        settings = arguments.settings
        loaded = load_model(
            settings.model,
            arguments.adapters,
            dtype=settings.dtype,
            device=own_device(settings.device),
            positions=settings.positions,
            options=settings.model_options,
        )
        loaded.session(arguments.reducers)  # a layer that does not exist is an error of the request
        self.arguments = arguments
        self.asker = Asker(loaded, arguments.reducers, arguments.seed, settings.frames)
        self.device = loaded.device
        self._stamp = get_datetime_str()

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answer all requests; write a record of each, and log the means."""
        self._times: Counter[tuple[str, Any]] = Counter()
        answers: list[Answered] = []
        for batch in self._batches(requests):
            said = self._answers(batch)
            answers += said
            self._keep(batch, said)
        log_metrics(
            total_elapsed_time=sum((a.seconds or 0) / a.batch for a in answers),
            total_gen_tokens=(tokens := sum(a.output_tokens or 0 for a in answers)),
            avg_speed=tokens / max(sum((a.seconds or 0) / a.batch for a in answers), 1e-9),
            additional_metrics=dict(means(answers)),
        )
        return [
            GenerationResult(answer.text, TokenCounts(answer.input_tokens, answer.output_tokens))
            for answer in answers
        ]

    def _batches(self, requests: Sequence[Instance]) -> Iterator[Sequence[Instance]]:
        from tqdm import tqdm

        size = self.arguments.batch_size
        with tqdm(total=len(requests), desc="tokenreduce", disable=self.rank > 0) as bar:
            for start in range(0, len(requests), size):
                yield requests[start : start + size]
                bar.update(min(size, len(requests) - start))

    def _answers(self, batch: Sequence[Instance]) -> list[Answered]:
        asked: list[Asked] = []
        failures: dict[int, Answered] = {}
        for number, request in enumerate(batch):
            try:
                asked.append(self._read(request))
            except (Exception, SystemExit) as error:  # of a task's own functions, too
                failures[number] = failed(error)
        said = iter(self.asker.ask(asked))
        return [failures.get(number) or next(said) for number in range(len(batch))]

    def _read(self, request: Instance) -> Asked:
        _, doc_to_messages, generation, doc_id, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        arguments, time = self.arguments, self._times[task, doc_id]
        self._times[task, doc_id] += 1
        return Asked(
            read_messages(messages),
            parse_generation(generation, arguments.settings.max_new_tokens),
            # Of the question, not of its place: batches, shares and --offset draw alike.
            draw=crc32(f"{arguments.seed} {task} {doc_id} {time}".encode()),
        )

    def _keep(self, batch: Sequence[Instance], answers: Sequence[Answered]) -> None:
        for request, answer in zip(batch, answers, strict=True):
            _, doc_to_messages, _, doc_id, task, split = request.args
            if answer.error is not None:
                sys.stderr.write(f"tokenreduce: {task} {doc_id}: {answer.error}\n")
            file = self.arguments.records or self._beside_samples(doc_to_messages)
            # Processes that share a task out are given the same number of questions, by repeating.
            if file is not None and not request.metadata.get("__padding_only__"):
                try:
                    write_records(file, [line_of(answer, task, split, doc_id)])
                except ConfigError as error:
                    stop(error)

    def _beside_samples(self, doc_to_messages: Any) -> Path | None:
        """Return a file in the folder of lmms-eval's own files; None where it keeps none."""
        # A task is handed the command line; a model is not.
        command = getattr(getattr(doc_to_messages, "__self__", None), "args", None)
        if command is None or not command.output_path:
            return None
        from lmms_eval.loggers.evaluation_tracker import GeneralConfigTracker

        name = GeneralConfigTracker._get_model_name(command.model_args or "")
        return Path(
            command.output_path, sanitize_model_name(name), f"{self._stamp}_tokenreduce.jsonl"
        )

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refuse tasks that compare likelihoods."""
        stop(
            UnsupportedError(
                f"{len(requests)} requests of the task want likelihoods: only tasks of the type "
                "generate_until can be run."
            )
        )

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        """Refuse tasks of several rounds."""
        stop(
            UnsupportedError(
                f"{len(requests)} requests of the task are talks of several rounds: only tasks of "
                "the type generate_until can be run."
            )
        )


def own_device(name: str) -> str:
    """Return the device of this process: where several share a task out, each has its own GPU."""
    import torch

    if name == "auto" and int(os.environ.get("WORLD_SIZE", 1)) > 1 and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return name


def stop(error: TokenReduceError) -> NoReturn:
    """End the program with a message: lmms-eval would print a traceback and go on."""
    sys.stderr.write(f"tokenreduce: {error}\n")
    raise SystemExit(BAD_REQUEST) from error
