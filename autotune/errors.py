"""Errors that a user can act on.

Everything a user may see as a failure of *their request* (a bad argument, a log that cannot be
written, a template that does not apply) derives from :class:`AutotuneError`; the command line
prints its message on one line and exits with code 2. Anything else is a bug and keeps its
traceback.
"""

from __future__ import annotations


class AutotuneError(Exception):
    """A request that cannot be carried out; the message says what to do about it."""


class InvalidWorkload(AutotuneError):
    """The workload is malformed: bad extents, dtype, layout or epilogue."""


class InvalidConfig(AutotuneError):
    """A configuration does not belong to the space it is used with."""


class NotApplicable(AutotuneError):
    """A template cannot compute this workload on this hardware; the message says why."""


class UnsupportedTarget(AutotuneError):
    """The target is unknown, or no such device is present."""


class LogError(AutotuneError):
    """The tuning log cannot be opened, read or appended to."""


class MeasureError(AutotuneError):
    """Measuring cannot go on: no worker can be started, or every trial failed."""
