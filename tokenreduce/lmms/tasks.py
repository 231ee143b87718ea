"""Tasks of lmms-eval, opened: their questions, and whether an answer to one is right."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tokenreduce.benchmark import Progress, Sample
from tokenreduce.errors import ConfigError, TokenReduceError, UnsupportedError
from tokenreduce.jsonl.matching import RULES
from tokenreduce.lmms.generation import parse_generation
from tokenreduce.lmms.manifest import NAME
from tokenreduce.lmms.messages import read_messages
from tokenreduce.names import suggestion

KEY = "OPENAI_API_KEY"
"""Environment variable with the key of the GPT model that judges some tasks."""

JUDGE = "gpt_eval_model_name"
"""Where a task's metadata names that model."""

CONTAINS = "contains"


class Task:
    """One task, which is no group.

    Parameters
    ----------
    name, task
        Its name and what lmms-eval made of it.
    metric
        Which of its metrics counts; None: its first.
    rule
        ``task``, ``contains`` or ``auto``; see :class:`tokenreduce.lmms.benchmark.LmmsBenchmark`.
    """

    def __init__(self, name: str, task: Any, metric: str | None, rule: str) -> None:
        self.name, self._task = name, task
        kind = str(task.OUTPUT_TYPE)
        if kind != "generate_until":
            raise ConfigError(
                f"the task '{name}' is of the type {kind}: only tasks whose answers are generated "
                "(generate_until) can be run."
            )
        judge = _metadata(task).get(JUDGE)
        if judge and rule == "task" and not os.environ.get(KEY):
            raise ConfigError(
                f"the task '{name}' is scored by {judge}, for which {KEY} must be set: set it, or "
                f"leave 'rule' out for the rule '{CONTAINS}'."
            )
        # Never by whether there is a key: equal configurations are to score alike.
        self.rule = rule if rule != "auto" else CONTAINS if judge else "task"
        self._metric = self._chosen(metric)
        with _of_task(name):
            self._generation = parse_generation(task.get_config("generation_kwargs") or {}, 1)
        self._docs = task.test_docs() if task.has_test_docs() else task.validation_docs()

    def samples(self, progress: Progress | None = None) -> Iterator[Sample]:
        """Yield the questions.

        Raises
        ------
        ConfigError
            If a question is not about one video file, or that is not on this machine.
        """
        category = self.name if self.rule == "task" else f"{self.name} (rule: {self.rule})"
        total = len(self._docs)
        for number in range(total):
            with _of_task(self.name):
                doc = self._docs[number]
                prompt = read_messages(self._task.doc_to_messages(doc))
                answer = self._task.doc_to_target(doc)
            if prompt.video is None:
                raise ConfigError(
                    f"the task '{self.name}' shows images: only tasks about video files can be run "
                    "here; lmms-eval itself can run it with --model tokenreduce."
                )
            if progress is not None:
                progress(number + 1, total, f"reading {self.name}")
            yield Sample(
                f"{self.name}/{number}",
                prompt.video,
                prompt.question,
                str(answer),
                category,
                frames=prompt.frames,
                start=prompt.start,
                end=prompt.end,
            )

    def right(self, number: int, sample: Sample, prediction: str) -> bool:
        """Return whether a prediction for a question is right.

        Raises
        ------
        UnsupportedError
            If the task gives it a score between right and wrong.
        """
        said = self._generation.cut(prediction)
        if self.rule == CONTAINS:
            return RULES[CONTAINS](sample.answer, said)
        score = self._score(number, said)
        if score in (0, 1, 100):
            return score > 0
        # A mean over categories, for one: what is right is worth less than the whole.
        none, whole = self._score(number, ""), self._score(number, sample.answer)
        if none == 0 and score == whole:
            return True
        raise UnsupportedError(
            f"the task '{self.name}' scores an answer with {score:g} by '{self._metric}', and the "
            f"right one with {whole:g}: only metrics by which an answer is right or wrong count."
        )

    def _chosen(self, metric: str | None) -> str:
        """Return the metric that counts; what only writes a file to send in is none."""
        metrics = [name for name in self._task.aggregation() if name != "submission"]
        if metric is not None and metric not in metrics:
            raise ConfigError(
                f"the task '{self.name}' has no metric '{metric}': {suggestion(metric, metrics)}"
            )
        if not metrics:
            raise ConfigError(
                f"the task '{self.name}' has no right answers: it only writes a file to send in."
            )
        return metric or metrics[0]

    def _score(self, number: int, prediction: str) -> float:
        """Return what the task gives for one answer; guesses of its own are the same every time."""
        doc, state = self._docs[number], random.getstate()
        random.seed(f"{self.name}/{number}")
        try:
            with _of_task(self.name):
                said = self._filtered(number, doc, prediction)
                found = self._task.process_results(dict(doc), [said])[self._metric]
                # Scores of a question may be of any form: the mean of one of them is a number.
                mean = self._task.aggregation()[self._metric]
                more = {"args": None} if "args" in inspect.signature(mean).parameters else {}
                return float(mean([found], **more))
        finally:
            random.setstate(state)

    def _filtered(self, number: int, doc: Any, prediction: str) -> Any:
        """Return what the first of the task's filters makes of a prediction."""
        from lmms_eval.api.instance import Instance

        metadata = {"task": self.name, "doc_id": number, "repeats": 1}
        request = Instance("generate_until", (), 0, metadata, resps=[prediction])
        ensembles = getattr(self._task, "_filters", None) or ()
        for ensemble in ensembles[:1]:
            ensemble.apply([request], [doc])
            return request.filtered_resps[ensemble.name]
        return prediction


@cache
def open_tasks(
    name: str, include_path: Path | None, metric: str | None, rule: str
) -> tuple[Task, ...]:
    """Return a task, or the tasks of a group, with their data; kept, as this takes seconds.

    Raises
    ------
    ConfigError
        If lmms-eval is not installed, there is no such task, or its data is not on this machine.
    """
    manager, get_task_dict = _manager(include_path)
    if name not in manager.all_tasks:
        raise ConfigError(_unknown(name, manager.all_tasks))
    with _of_task(name):
        loaded = dict(_leaves(get_task_dict([name], manager, "chat")))
    return tuple(Task(each, task, metric, rule) for each, task in loaded.items())


@cache
def _manager(include_path: Path | None) -> tuple[Any, Callable[..., Any]]:
    """Return lmms-eval's index of all tasks, and what loads them; making it takes seconds."""
    try:
        from lmms_eval.tasks import TaskManager, get_task_dict
    except ImportError as error:
        raise ConfigError(
            f"lmms-eval cannot be imported ({error}): benchmarks 'lmms:TASK' need an environment "
            "of their own, with pip install -c constraints-lmms.txt 'tokenreduce[lmms]'."
        ) from error
    from loguru import logger

    logger.disable("lmms_eval")  # it logs a table for each score that is asked for
    folder = None if include_path is None else str(include_path)
    return TaskManager("ERROR", folder, model_name=NAME), get_task_dict


def _unknown(name: str, known: list[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    said = f"the closest are {', '.join(near)}" if near else "none is like it"
    return f"lmms-eval has no task '{name}': {said}; `lmms-eval tasks list` shows all {len(known)}."


def _leaves(found: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield name and task of all tasks; groups are mappings of tasks."""
    for name, task in found.items():
        if isinstance(task, Mapping):
            yield from _leaves(task)
        else:
            yield str(name), task[1] if isinstance(task, tuple) else task


def _metadata(task: Any) -> Mapping[str, Any]:
    found = task.get_config("metadata")
    parts = found if isinstance(found, list) else [found]
    return {
        key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()
    }


@contextmanager
def _of_task(name: str) -> Iterator[None]:
    """Make whatever a task's own functions end in one error; some end the program."""
    try:
        yield
    except TokenReduceError as error:
        raise ConfigError(f"the task '{name}': {error}") from error
    except (Exception, SystemExit) as error:
        cause = _cause(error)
        raise ConfigError(
            f"the task '{name}' of lmms-eval fails with {type(cause).__name__}: "
            f"{str(cause) or 'no message'}; its data must be on this machine, below HF_HOME="
            f"{os.environ.get('HF_HOME', '(not set)')}."
        ) from error


def _cause(error: BaseException) -> BaseException:
    """Return what was raised at the last of several attempts."""
    last = getattr(error, "last_attempt", None)
    return (last.exception() if last is not None else None) or error
