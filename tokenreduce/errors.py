"""Every error the package raises on purpose: one sentence with value, place and way out."""

from __future__ import annotations


class TokenReduceError(Exception):
    """Base class of all errors raised on purpose; the command line prints their text alone."""


class ConfigError(TokenReduceError, ValueError):
    """A setting, file or name in a configuration is wrong."""


class PluginError(TokenReduceError):
    """A plugin could not be loaded, or does not keep to the hook specifications."""


class ReducerError(TokenReduceError):
    """A reducer's plan is not valid, or it asked for what it did not declare."""


class AdapterError(TokenReduceError):
    """No adapter fits a model, or the model is not laid out as its adapter expects."""


class LayoutError(TokenReduceError, ValueError):
    """A description of where the visual tokens sit does not fit the sequence."""


class UnsupportedError(TokenReduceError):
    """The request cannot be answered exactly under reduction, and is refused before any compute."""


class CacheError(TokenReduceError):
    """A key-value cache made under reduction is used where its layers would be misread."""


class VideoError(TokenReduceError):
    """A video file cannot be opened, holds no video, or gives no frame."""


class WorkerError(TokenReduceError):
    """Workers of a run cannot be started or reached."""


class ConformanceError(TokenReduceError, AssertionError):
    """A reducer, adapter or benchmark does not keep to what its interface promises."""
