"""Measuring: build, verify and time configurations in isolated worker processes."""

from autotune.measure.cuda import CudaMeasurer, make_measurer, require_present
from autotune.measure.local import LocalMeasurer
from autotune.measure.options import MeasureOptions
from autotune.measure.process import Deadline, WorkerDied, WorkerProcess

__all__ = [
    "CudaMeasurer",
    "Deadline",
    "LocalMeasurer",
    "MeasureOptions",
    "WorkerDied",
    "WorkerProcess",
    "make_measurer",
    "require_present",
]
