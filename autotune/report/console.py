"""Progress and result on the console: live on a terminal, plain lines when piped, or nothing."""

from __future__ import annotations

import shlex
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from autotune.measure.final import NOISY_SPREAD, spread

if TYPE_CHECKING:
    from autotune.run import Report, Trial
    from autotune.tune import Session

#: A plain line at least this often, besides one for each improvement.
_LINE_SECONDS = 10.0


def make_view(silent: bool) -> View:
    """Return the view for standard output: silent, live or plain."""
    from rich.console import Console

    if silent:
        return View()
    console = Console(highlight=False)
    return LiveView(console) if console.is_terminal else PlainView(console)


class View:
    """Shows nothing; base of the others, and the observer used with ``--json``."""

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    def started(self, session: Session) -> None:
        """See :class:`autotune.run.Observer`."""

    def ready(self, roofline_gflops: float) -> None:
        """See :class:`autotune.run.Observer`."""

    def trial(self, trial: Trial) -> None:
        """See :class:`autotune.run.Observer`."""

    def final(self, done: int, rounds: int) -> None:
        """See :class:`autotune.run.Observer`."""

    def summarise(self, report: Report) -> None:
        """Print the result."""


class _ConsoleView(View):
    """What the live and the plain view have in common."""

    def __init__(self, console: Any) -> None:
        self.console = console
        self.roofline = 0.0

    def started(self, session: Session) -> None:
        self.session = session
        self.began = time.monotonic()
        request = session.request
        legal = ", ".join(p.name for p in session.space.parameters)
        self.console.print(
            f"{request.workload.key}\non {request.profile.name}, {request.threads} thread(s);"
            f" template {request.template}, {session.space.size:,} configs ({legal});"
            f" searcher {request.searcher}",
            soft_wrap=True,
        )
        if session.notes:
            self.console.print(session.notes, soft_wrap=True)
        if session.restarted:
            self.console.print(f"{session.restarted}; a new run uses its results", soft_wrap=True)
        if session.own:
            self.console.print(f"resuming run {session.header.run} from {session.report.log_path}")

    def ready(self, roofline_gflops: float) -> None:
        self.roofline = roofline_gflops

    def rate(self, cost: float) -> str:
        """Return a cost as GFLOP/s with its share of the roofline."""
        if cost == float("inf"):
            return "none yet"
        gflops = self.session.report.gflops(cost)
        share = f" ({gflops / self.roofline:.0%} of roofline)" if self.roofline else ""
        return f"{gflops:.1f} GFLOP/s{share}"

    def left(self) -> str:
        """Estimate the time left from both budgets."""
        request, report = self.session.request, self.session.report
        guesses = []
        if request.seconds is not None:
            guesses.append(request.seconds - report.search_seconds)
        done = report.trials - report.resumed
        if request.trials is not None and done:
            each = (time.monotonic() - self.began) / done
            guesses.append(each * (request.trials - report.trials))
        return f"{max(0.0, min(guesses)):.0f} s left" if guesses else ""

    def summarise(self, report: Report) -> None:
        for line in summary_lines(report):
            self.console.print(line, soft_wrap=True, markup=False)


class PlainView(_ConsoleView):
    """Lines: one for each improvement, and one every few seconds."""

    def started(self, session: Session) -> None:
        super().started(session)
        self.shown = float("-inf")
        self.best = float("inf")

    def trial(self, trial: Trial) -> None:
        improved = trial.best_cost < self.best
        self.best = trial.best_cost
        now = time.monotonic()
        if trial.origin == "resumed" or (not improved and now - self.shown < _LINE_SECONDS):
            return
        self.shown = now
        failures = sum(self.session.report.failures.values())
        self.console.print(
            f"trial {trial.number}: best {self.rate(trial.best_cost)}, {failures} failed,"
            f" {self.left()}",
            soft_wrap=True,
        )

    def final(self, done: int, rounds: int) -> None:
        if done == 0:
            self.console.print(f"re-measuring the best, the default and libraries, {rounds} rounds")


class LiveView(_ConsoleView):
    """One block of text, redrawn in place."""

    def __init__(self, console: Any) -> None:
        super().__init__(console)
        from rich.live import Live

        self.live = Live(console=console, refresh_per_second=4, transient=True)
        self.last: Trial | None = None

    def __exit__(self, *details: Any) -> None:
        self.live.stop()

    def ready(self, roofline_gflops: float) -> None:
        super().ready(roofline_gflops)
        self.live.start()

    def trial(self, trial: Trial) -> None:
        if trial.origin != "resumed":
            self.last = trial
            self.live.update(self._table())

    def final(self, done: int, rounds: int) -> None:
        self.live.update(
            f"re-measuring the best, the default and libraries: round {done + 1}/{rounds}"
        )

    def _table(self) -> Any:
        from rich.table import Table

        trial, report, request = self.last, self.session.report, self.session.request
        assert trial is not None
        failures = ", ".join(f"{n} {kind}" for kind, n in report.failures.most_common()) or "none"
        last = (
            str(trial.result.failure.value)
            if trial.result.failure
            else self.rate(trial.result.cost)
        )
        table = Table(show_header=False, box=None)
        table.add_row(
            "trials", f"{report.trials}" + (f" / {request.trials}" if request.trials else "")
        )
        table.add_row("best", self.rate(trial.best_cost))
        table.add_row("last", last)
        table.add_row("failures", failures)
        table.add_row("time", self.left())
        return table


def summary_lines(report: Report) -> list[str]:
    """Return the result of a run as lines of text."""
    lines = [_trials_line(report)]
    if report.interrupted:
        lines.append("interrupted; everything measured so far is in the log")
    if report.best is None:
        return [*lines, "no config has been measured yet"]
    if report.winner is None:
        lines.append(
            f"best so far: {report.gflops(report.best_cost):.1f} GFLOP/s (one reading, not"
            " re-measured)"
        )
        return [*lines, f"config: {report.best.key}"]
    origin = "from the log" if report.final_from_log else "medians of interleaved rounds"
    lines.append(f"final comparison ({origin}):")
    lines += _contender_lines(report)
    lines.append(f"winner: {report.gflops(report.winner_cost):.1f} GFLOP/s" + _ratios(report))
    lines.append(f"config: {report.winner.key}")
    if (factor := _spread(report)) > NOISY_SPREAD:
        lines.append(
            f"noisy: the winner's rounds differ by a factor of {factor:.1f}, so its rate is not"
            " sure; measure again on a quieter machine"
        )
    if report.log_path is not None:
        lines.append("use it: " + _use_command(report))
    return lines


def _trials_line(report: Report) -> str:
    parts = [f"{report.measured} measured"]
    if report.resumed:
        parts.append(f"{report.resumed} from this run's log")
    if report.shared:
        parts.append(f"{report.shared} from other runs in the log")
    if report.twins:
        parts.append(f"{report.twins} with the same machine code as an earlier one")
    if failed := sum(report.failures.values()):
        kinds = ", ".join(f"{n} {kind}" for kind, n in report.failures.most_common())
        parts.append(f"{failed} failed: {kinds}")
    line = f"{report.trials} trials ({'; '.join(parts)}) in {report.search_seconds:.1f} s"
    return line + ("; the whole space has been tried" if report.exhausted else "")


def _contender_lines(report: Report) -> list[str]:
    lines = []
    for c in report.contenders:
        if not c.costs:
            lines.append(f"  {c.label:9} failed: {c.verdict}")
            continue
        rates = sorted(report.gflops(cost) for cost in c.costs)
        lines.append(
            f"  {c.label:9} {report.gflops(c.cost):8.1f} GFLOP/s   (rounds {rates[0]:.1f} to"
            f" {rates[-1]:.1f})" + ("   noisy" if spread(c.costs) > NOISY_SPREAD else "")
        )
    return lines


def _spread(report: Report) -> float:
    """Return slowest over fastest round of the winner, the extreme round at each end left out."""
    assert report.winner is not None
    winner = report.winner.to_json()
    return next((spread(c.costs) for c in report.contenders if c.config == winner), 1.0)


def _ratios(report: Report) -> str:
    parts = [f"{ratio:.2f} x {name}" for name, ratio in report.speedups.items()]
    if report.peak_gflops:
        share = report.gflops(report.winner_cost) / report.peak_gflops
        kind = "measured" if report.request.profile.kind == "cpu" else "datasheet's"
        parts.append(f"{share:.0%} of the {kind} peak {report.peak_gflops:.0f}")
    return ", " + ", ".join(parts) if parts else ""


def _use_command(report: Report) -> str:
    from autotune.kernels.base import AUTO, choose_template

    request, w = report.request, report.request.workload
    usual_template = choose_template(AUTO, w, request.profile, request.plugins).name
    words = ["autotune", "bench", "-m", w.m, "-n", w.n, "-k", w.k]
    for option, value, usual in (
        ("--layout", w.layout, "nn"),
        ("--dtype", w.dtype, "float32"),
        ("--epilogue", w.epilogue, "none"),
        ("--batch-count", w.batch, 1),
        ("--shared", w.shared, ""),
        ("--scale", w.scale, 1.0),
        ("--cache", request.cache, "hot"),
        ("--template", request.template, usual_template),
    ):
        if value != usual:
            words += [option, value]
    if w.prepacked:
        words.append("--prepacked")
    on_cpu = request.profile.kind == "cpu"
    words += ["--threads", request.threads] if on_cpu else ["--target", "cuda"]
    words += ["--log", report.log_path]
    return shlex.join(str(word) for word in words)
