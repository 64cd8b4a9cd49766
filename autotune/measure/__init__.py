"""Measuring: build, verify and time configurations in isolated worker processes."""

from autotune.measure.local import LocalMeasurer, MeasureOptions
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess

__all__ = ["Deadline", "LocalMeasurer", "MeasureOptions", "WorkerDied", "WorkerProcess"]
