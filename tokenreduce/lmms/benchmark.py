"""The benchmark `lmms`: any generating task of lmms-eval that is about single videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from tokenreduce.benchmark import Benchmark, Progress, Sample

if TYPE_CHECKING:
    from tokenreduce.lmms.tasks import Task


class LmmsBenchmark(Benchmark):
    """A task of lmms-eval: its questions, prompts and videos, its filters, scoring and metric.

    It needs the extra `tokenreduce[lmms]`. Tasks that a GPT model judges are scored by a plain
    rule unless its own is asked for, and categories then name the rule.
    """

    name: ClassVar[str] = "lmms"
    shorthand: ClassVar[str] = "task"

    task: str = Field(description="a task or group of lmms-eval, such as videomme or mvbench")
    metric: str | None = Field(
        None, description="which of the task's metrics says what is right; null: its first"
    )
    rule: Literal["auto", "task", "contains"] = Field(
        "auto",
        description="task: its own scoring, with OPENAI_API_KEY where a GPT model judges; "
        "contains: the answer's words are said; auto: contains where one judges, else the task's",
    )
    include_path: Path | None = Field(None, description="folder with further tasks")

    def samples(self, progress: Progress | None = None) -> list[Sample]:
        """Return the task's questions, those of a group's tasks one task after the other.

        Raises
        ------
        ConfigError
            If lmms-eval is not installed, there is no such task, its data is not on this machine,
            or it is none that can be run here.
        """
        return [sample for task in self._tasks() for sample in task.samples(progress)]

    def matches(self, sample: Sample, prediction: str) -> bool:
        """Return whether a prediction is right, by the task's scoring or the rule."""
        name, _, number = sample.id.rpartition("/")
        task = next(task for task in self._tasks() if task.name == name)
        return task.right(int(number), sample, prediction)

    def _tasks(self) -> tuple[Task, ...]:
        from tokenreduce.lmms.tasks import open_tasks

        return open_tasks(self.task, self.include_path, self.metric, self.rule)
