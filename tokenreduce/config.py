"""The configuration of a comparison: from YAML to checked values, with all errors at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from tokenreduce.names import suggestion
from tokenreduce.problems import Path as Place
from tokenreduce.problems import Report, build, shown, sweeps

EMBEDDED_MODEL = "embedded"
"""Name of the model that comes with the package."""

EMBEDDED_BENCHMARK = "embedded"
"""Name of the benchmark that comes with the package."""

BASELINE = "keep_all"
"""The reducer that every comparison is measured against, and the label of its row."""

Dtype = Literal["float32", "bfloat16", "float16"]


class PluginSettings(BaseModel):
    """Which plugins to leave out, and whether a broken one ends the command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block: tuple[str, ...] = Field(
        (), description="names of plugins, or of their distributions, not to import"
    )
    strict: bool = Field(False, description="whether a broken plugin is an error")


class CommonSettings(BaseModel):
    """The settings of a comparison besides its benchmark and its reducers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        EMBEDDED_MODEL,
        description="'embedded', or the folder of a checkpoint, relative to the working directory",
    )
    model_options: dict[str, Any] = Field(
        {}, description="choices of the model's family, by name; its page lists them"
    )
    frames: Annotated[int, Field(ge=1)] | None = Field(
        None, description="frames to sample from each video; null: as the benchmark says"
    )
    max_new_tokens: int = Field(16, ge=1, description="longest answer, in tokens")
    dtype: Dtype = Field("float32", description="number format of weights and activations")
    device: str = Field(
        "auto",
        description="'cpu', 'cuda', 'cuda:1', 'mps', or 'auto': cuda where there is one, else cpu",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="seeds of the reducers' random choices, one pass for each"
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        None, description="at most so many questions, evenly spread; null: all"
    )
    positions: Literal["keep", "renumber", "mean"] = Field(
        "keep",
        description="position ids after a reduction: 'keep' the original ones, 'renumber' what a "
        "layer holds from 0, or give a merged token the 'mean' of its members, rounded down",
    )
    plugins: PluginSettings = Field(PluginSettings(), description="third-party plugins")

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise ValueError("use auto, cpu, mps, cuda, or one of several as in cuda:1")
        return device


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes that names in a configuration stand for, as the registry found them."""

    reducers: Mapping[str, type[BaseModel]]
    benchmarks: Mapping[str, type[BaseModel]]


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """A checked configuration.

    Attributes
    ----------
    settings
        Everything besides benchmark and reducers.
    benchmark
        The benchmark with its settings.
    reducers
        Label to the reducers that are composed in order; a row of :data:`BASELINE` alone is
        always there.
    """

    settings: CommonSettings
    benchmark: BaseModel
    reducers: Mapping[str, tuple[BaseModel, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration with every default written out, as it would stand in YAML."""
        rows = {label: [written(stage) for stage in row] for label, row in self.reducers.items()}
        return {
            **self.settings.model_dump(mode="json"),
            "benchmark": written(self.benchmark),
            "reducers": {label: row[0] if len(row) == 1 else row for label, row in rows.items()},
        }


def written(stage: BaseModel) -> dict[str, Any]:
    """Return a reducer or benchmark as it would stand in YAML, every setting written out."""
    return {"use": getattr(stage, "name", ""), **stage.model_dump(mode="json")}


def besides_use(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a reducer or benchmark without the name that they are for."""
    return {name: value for name, value in values.items() if name != "use"}


def parse_config(data: Mapping[str, Any], classes: Classes, source: str) -> CompareConfig:
    """Check a whole configuration.

    Parameters
    ----------
    data
        The mapping that was read, overrides applied.
    classes
        What the names in it stand for.
    source
        What to call it in an error, such as its file name.

    Raises
    ------
    ConfigError
        With everything that is wrong: a line each with its path, value and nearest valid name.
    """
    found = Report()
    known = (*CommonSettings.model_fields, "benchmark", "reducers")
    common = {key: value for key, value in data.items() if key not in ("benchmark", "reducers")}
    settings = build(CommonSettings, common, (), found, known=known)
    check_model(data.get("model", EMBEDDED_MODEL), found)
    benchmark = parse_benchmark(data.get("benchmark", EMBEDDED_BENCHMARK), classes, found)
    reducers = _rows(data.get("reducers"), classes, found)
    _without_sweeps(data, found).raise_if_any(source)
    assert settings is not None
    assert benchmark is not None
    return CompareConfig(settings, benchmark, reducers)


def parse_reducer(name: str, values: Mapping[str, Any], classes: Classes) -> BaseModel:
    """Return the reducer ``name`` with the settings ``values``.

    Raises
    ------
    ConfigError
        With everything that is wrong with the name or the settings.
    """
    report = Report()
    reducer = _stage({**values, "use": name}, (), "reducer", classes.reducers, report)
    _without_sweeps(values, report).raise_if_any(f"the settings of the reducer '{name}'")
    assert reducer is not None
    return reducer


def parse_stages(stages: Sequence[Mapping[str, Any]], classes: Classes) -> tuple[BaseModel, ...]:
    """Return the reducers that were written out by :func:`written`, in the order they act.

    Raises
    ------
    ConfigError
        If a name or a setting is not known here.
    """
    report = Report()
    made = [
        _stage(dict(s), (n,), "reducer", classes.reducers, report) for n, s in enumerate(stages)
    ]
    report.raise_if_any("the reducers of a cell")
    return tuple(stage for stage in made if stage is not None)


def plugin_settings(data: Mapping[str, Any]) -> PluginSettings:
    """Return the plugin settings before all else is checked: classes come from loaded plugins.

    What is wrong with them is for :func:`parse_config` to say.
    """
    try:
        return PluginSettings.model_validate(data.get("plugins", {}))
    except ValidationError:
        return PluginSettings()


def _without_sweeps(data: Any, found: Report) -> Report:
    swept = list(sweeps(data))
    report = Report()
    for path in swept:
        report.add(path, "a sweep belongs to an ablation; compare takes one value here.")
    # A sweep where a value should be is wrong in other ways too, which say nothing new.
    report.take(found, besides=swept)
    return report


def check_model(model: object, report: Report) -> None:
    """Report a model that is neither the embedded one nor a folder."""
    if isinstance(model, str) and model != EMBEDDED_MODEL and not Path(model).is_dir():
        report.add(
            ("model",),
            f"{shown(model)} is neither '{EMBEDDED_MODEL}' nor a folder: give the folder of a "
            "checkpoint that was downloaded.",
        )


def parse_benchmark(value: Any, classes: Classes, report: Report) -> BaseModel | None:
    """Return the benchmark that ``NAME``, ``NAME:VALUE`` or a mapping of settings stands for.

    None after reporting what is wrong with it.
    """
    values = benchmark_settings(value, classes)
    return _stage(
        values, ("benchmark",), "benchmark", classes.benchmarks, report, EMBEDDED_BENCHMARK
    )


def benchmark_settings(value: Any, classes: Classes) -> Any:
    """Return a benchmark as a mapping of settings, if it or its ``use`` was written short."""
    if isinstance(value, dict) and isinstance(value.get("use"), str):
        return {**benchmark_settings(value["use"], classes), **besides_use(value)}
    if not isinstance(value, str):
        return value
    name, colon, rest = value.partition(":")
    setting = getattr(classes.benchmarks.get(name), "shorthand", None)
    return {"use": name, setting: rest} if colon and setting else {"use": value}


def labelled_rows(data: Any, report: Report) -> dict[str, Any]:
    """Return what stands under ``reducers``, label by label; reports labels that are no text."""
    if not isinstance(data, dict) or not data:
        report.add(
            ("reducers",),
            f"{shown(data)} is no mapping from labels to reducers: write at least one, such as "
            "'vas: {ratio: 0.3}'.",
        )
        return {}
    for label in data:
        if not isinstance(label, str):
            report.add(("reducers", str(label)), f"the label {shown(label)} is no text: quote it.")
    return {label: value for label, value in data.items() if isinstance(label, str)}


def _rows(data: Any, classes: Classes, report: Report) -> dict[str, tuple[BaseModel, ...]]:
    given = labelled_rows(data, report).items()
    rows = {label: parse_row(label, value, classes, report) for label, value in given}
    if BASELINE not in classes.reducers or any(is_baseline(row) for row in rows.values()):
        return rows
    if rows.get(BASELINE):
        report_taken_label(report)
    return {BASELINE: (classes.reducers[BASELINE](),), **rows}


def report_taken_label(report: Report) -> None:
    """Report that a row that reduces has the baseline's label."""
    report.add(("reducers", BASELINE), "this label is the baseline's: give the row another.")


def parse_row(
    label: str, value: Any, classes: Classes, report: Report, below: Place = ()
) -> tuple[BaseModel, ...]:
    """Return the reducers of a row, in the order they act; what is wrong is reported.

    Parameters
    ----------
    label, value
        What stands under ``reducers``.
    classes
        What names of reducers stand for.
    report
        Collects the problems.
    below
        Where in the row the value stands.
    """
    path = ("reducers", label, *below)
    if not isinstance(value, list):
        stages = [_stage(value, path, "reducer", classes.reducers, report, label)]
    elif not value:
        report.add(path, "an empty list composes nothing: name at least one reducer.")
        return ()
    else:
        stages = [
            _stage(entry, (*path, index), "reducer", classes.reducers, report)
            for index, entry in enumerate(value)
        ]
    return tuple(stage for stage in stages if stage is not None)


def _stage(
    value: Any,
    path: Place,
    kind: str,
    classes: Mapping[str, type[BaseModel]],
    report: Report,
    default: str | None = None,
) -> BaseModel | None:
    values = {} if value is None else value
    if not isinstance(values, dict):
        report.add(path, f"{shown(value)} is no mapping of settings: write {{use: NAME, ...}}.")
        return None
    name = values.get("use", default)
    if name is None:
        report.add(path, f"{shown(value)} names no {kind}: write {{use: NAME, ...}}.")
        return None
    cls = classes.get(name) if isinstance(name, str) else None
    if cls is None:
        where = (*path, "use") if "use" in values else path
        report.add(where, f"no {kind} is called {shown(name)}: {suggestion(name, classes)}")
        return None
    settings = {str(key): setting for key, setting in values.items() if key != "use"}
    return build(cls, settings, path, report)


def is_baseline(row: Sequence[BaseModel]) -> bool:
    """Return whether a row's reducers are the unreduced baseline alone."""
    return len(row) == 1 and getattr(row[0], "name", None) == BASELINE
