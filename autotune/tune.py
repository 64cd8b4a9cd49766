"""The tuning loop: ask the searcher, measure, log, tell; then name a winner.

A run is identified by what it does: workload, hardware, template, searcher with its options and
seed, batch size. The same request finds its own records in the log, rebuilds the searcher from them
and goes on where it stopped; budgets are not part of the identity, so a larger budget continues a
run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from autotune.errors import AutotuneError, MeasureError
from autotune.identity import target_json, target_key, tool_versions
from autotune.kernels.base import get_template
from autotune.log import (
    FinalRecord,
    Record,
    RunHeader,
    TrialRecord,
    TuningLog,
    find_run,
    next_sequence,
    results_for,
    run_batches,
    run_header,
    trial_record,
)
from autotune.measure.final import run_final
from autotune.measure.timing import HOPELESS_MARGIN
from autotune.run import Observer, Report, Trial, TuneRequest
from autotune.search import create_searcher
from autotune.search.resume import resume
from autotune.search.rounds import Rounds
from autotune.search.space import Config, ConfigSpace
from autotune.thinking import Thinking
from autotune.trial import FailureKind, Result
from autotune.warm_start import read_warm_start
from autotune.winner import adopt, winner_record

if TYPE_CHECKING:
    from autotune.measure import LocalMeasurer
    from autotune.search.base import Searcher

#: How many configs were asked for; places among them, and configs, of what is to be measured.
_Batch: TypeAlias = tuple[int, list[int], list[Config]]


class Session:
    """One invocation of a run: owns the searcher and the log's view of it."""

    def __init__(
        self,
        request: TuneRequest,
        log: TuningLog | None,
        warm_start: Iterable[TrialRecord] = (),
    ) -> None:
        self.request = request
        self.log = log
        template = get_template(request.template, request.plugins)
        if template.kind != request.profile.kind:
            raise AutotuneError(
                f"template {template.name!r} is for {template.kind}, not for {request.profile.kind}"
            )
        self.space: ConfigSpace = template.space(request.workload, request.profile, request.threads)
        #: How the template computes this workload here, for the user; may be empty.
        self.notes = template.notes(request.workload, request.profile)
        self.template_id = {"name": template.name, "version": template.version}
        self.target_key = target_key(request.profile, request.threads, request.cache)
        self.warm = read_warm_start(
            self.space, warm_start, request.workload, self.target_key, self.template_id
        )
        records: Sequence[Record] = [] if log is None else log.scan().records
        # Other runs' results of the same configs need not be measured again.
        self.known = results_for(records, request.workload.key, self.target_key, self.template_id)
        #: Why an earlier run of this request is not continued; empty if it is, or there is none.
        self.restarted = ""
        search = self._identity()
        run = find_run(records, request.workload.key, self.target_key, self.template_id, search)
        try:
            self._stand_where(run, records, search)
        except AutotuneError as error:
            self.restarted = f"run {run} cannot be continued: {error}"
            self._stand_where(None, (), search)
        self.report = Report(request, self.header.run, None if log is None else str(log.path))
        self._started = False
        #: What of the last batch has been asked for and not been measured yet.
        self._leftover: _Batch | None = None
        self._batch_number = -1

    def _identity(self) -> dict[str, Any]:
        """Return what makes two requests for one workload the same search."""
        searcher = self._make_searcher()
        return {
            **searcher.describe(),
            "batch": self.request.batch,
            # Left out at 0, so that runs of before there was such a thing go on.
            **({"ahead": self.request.ahead} if self.request.ahead else {}),
            **self.warm.identity(searcher),
        }

    def _stand_where(
        self, run: str | None, records: Sequence[Record], search: dict[str, Any]
    ) -> None:
        """Bring a new searcher to where a run stopped, or to the start of a new run.

        Raises
        ------
        AutotuneError
            If the records of the run are not what this searcher would have done: some were damaged,
            two processes wrote the same run, or another version did.
        """
        self.searcher = self._make_searcher()
        self.header = self._make_header(run, search)
        self.own = [r for r in records if r.run == self.header.run]
        self.sequence = next_sequence(records, self.header.run)
        #: Ids of this run's measurements by the digest of their machine code.
        self.codes = {
            r.code: r.id
            for r in reversed(self.own)
            if isinstance(r, TrialRecord) and r.code and r.source is None and r.ok
        }
        self.batches = run_batches(self.own, self.header.run)
        recorded = {r.batch for r in self.own if isinstance(r, TrialRecord)}
        if len(recorded) > len(self.batches):
            raise AutotuneError("some of its records are damaged or missing")
        self.rounds = Rounds(self.searcher, self.request.ahead)
        self.unfinished = resume(
            self.rounds,
            [
                (asked, [(a, t, self._config(r), r.result()) for a, t, r in told])
                for asked, told in self.batches
            ],
        )

    def _config(self, record: TrialRecord) -> Config:
        return self.space.config_from_json(record.config)

    def _make_searcher(self) -> Searcher:
        request = self.request
        searcher = create_searcher(
            request.searcher,
            self.space,
            request.seed,
            preset=request.preset,
            start=self.space.defaults if request.preset == "default" else (),
            **request.searcher_options,
        )
        self.warm.give(searcher)
        return searcher

    def _make_header(self, run: str | None, search: dict[str, Any]) -> RunHeader:
        request = self.request
        return run_header(
            request.workload,
            target=target_json(request.profile, request.threads, request.cache),
            target_key=self.target_key,
            template=self.template_id,
            run=run,
            search=search,
            hardware=request.profile.fingerprint(),
            tools=tool_versions(),
        )

    # -- the loop -------------------------------------------------------------------------------

    def run(self, measurer: LocalMeasurer, observer: Observer) -> Report:
        """Search until the budget is spent, then re-measure the best.

        Raises
        ------
        MeasureError
            If every trial failed; the message holds the first failures.
        """
        try:
            self.advance(measurer, observer)
            self.conclude(measurer, observer)
        except KeyboardInterrupt:
            self.report.interrupted = True
        return self.report

    def begin(self, observer: Observer) -> None:
        """Count what this run has in the log; the first call of :meth:`advance` does it too."""
        if not self._started:
            self._started = True
            observer.started(self)
            self._leftover = self._count_resumed(observer)
            self._batch_number = len(self.batches) - 1

    def advance(
        self, measurer: LocalMeasurer, observer: Observer, trials: int | None = None
    ) -> None:
        """Search until the budget is spent, or until there are ``trials`` of them in all."""
        self.begin(observer)
        limits = [limit for limit in (trials, self.request.trials) if limit is not None]
        self._search(measurer, observer, min(limits, default=math.inf))

    def conclude(self, measurer: LocalMeasurer, observer: Observer) -> None:
        """Re-measure the best and name a winner.

        Raises
        ------
        MeasureError
            If every trial failed; the message holds the first failures.
        """
        if self.report.best is None and self.searcher.best is not None:
            # Nothing was left to try: the history given as a warm start holds it all.
            self.report.best, self.report.best_cost = self.searcher.best
        if self.report.best is None:
            raise MeasureError(self._all_failed())
        self._final(measurer, observer)

    def _search(self, measurer: LocalMeasurer, observer: Observer, limit: float) -> None:
        if not self._spent(limit):
            measurer.begin(self.request.batch * (1 + self.request.ahead))
        # Only what is asked for ahead can be thought of while something is measured.
        with Thinking(measurer.spare_cores if self.request.ahead else ()) as thinking:
            while not self._spent(limit):
                taken = None if self._leftover else self._take(thinking)
                batch, self._leftover = self._leftover or taken, None
                if batch is None:
                    self.report.exhausted = True
                    return
                asked, places, configs = batch
                known = [*configs, *self.rounds.following]
                left = limit - self.report.trials
                self._prepare(measurer, known, left)
                if taken is not None:
                    thinking.do(self._look_ahead, measurer, left - len(known))
                for i, (place, config) in enumerate(zip(places, configs, strict=True)):
                    if self._spent(limit):
                        self._leftover = asked, places[i:], configs[i:]
                        return
                    result = self._one_trial(measurer, observer, config, (asked, place))
                    thinking.do(self.searcher.tell, config, result)

    def _take(self, thinking: Thinking) -> _Batch | None:
        """Return the next batch, or None at the end."""
        asked = self.request.batch
        configs = thinking.get(self.rounds.take, asked)
        if not configs:
            return None
        self._batch_number += 1
        return asked, list(range(len(configs))), configs

    def _look_ahead(self, measurer: LocalMeasurer, left: float) -> None:
        """Ask for the batches after the one that has been taken, and have them built."""
        self._prepare(measurer, self.rounds.fill(self.request.batch), left)

    def _prepare(self, measurer: LocalMeasurer, configs: Sequence[Config], left: float) -> None:
        """Let the measurer build ahead what of these configs will be measured.

        ``left`` is how many of them the budget allows.
        """
        wanted = [
            config
            for config in configs[: int(max(0, min(left, len(configs))))]
            if config.key not in self.known and self.space.violated(config) is None
        ]
        if wanted:
            measurer.prepare(self.request.template, wanted, beside=self.request.ahead > 0)

    def _count_resumed(self, observer: Observer) -> _Batch | None:
        """Count what this run did before; return what its last batch still lacks."""
        for _, told in self.batches:
            for _, _, record in told:
                self.report.search_seconds += record.elapsed
                self._count(observer, self._config(record), record.result(), "resumed")
        if not self.unfinished:
            return None
        asked, told = self.batches[-1]
        done = {ask for ask, _, _ in told}
        places = [p for p in range(len(done) + len(self.unfinished)) if p not in done]
        return asked, places, self.unfinished

    def _spent(self, limit: float) -> bool:
        request, report = self.request, self.report
        return report.trials >= limit or (
            request.seconds is not None and report.search_seconds >= request.seconds
        )

    def _one_trial(
        self,
        measurer: LocalMeasurer,
        observer: Observer,
        config: Config,
        position: tuple[int, int],
    ) -> Result:
        """Obtain, log and count one result, which the searcher has not been told yet.

        ``position`` is how many configs were asked for, and the place of this one among them.
        """
        start = time.monotonic()
        result, source = self._obtain(measurer, observer, config)
        elapsed = time.monotonic() - start
        asked, place = position
        record = trial_record(
            self.header,
            self.sequence,
            config.to_json(),
            result,
            batch=self._batch_number,
            asked=asked,
            ask=place,
            tell=place,
            elapsed=round(elapsed, 6),
            source=source,
        )
        self._append(record)
        if source is None and result.code and result.ok:
            self.codes[result.code] = record.id
        self.report.search_seconds += elapsed
        origin = "measured"
        if source is not None:
            origin = "twins" if result.code and source == self.codes.get(result.code) else "shared"
        self._count(observer, config, result, origin)
        return result

    def _obtain(
        self, measurer: LocalMeasurer, observer: Observer, config: Config
    ) -> tuple[Result, str | None]:
        """Return the result of a config and the id of the record that served as it, if any."""
        broken = self.space.violated(config)
        if broken is not None:
            return Result.failed(FailureKind.ILLEGAL, broken), None
        known = self.known.get(config.key)
        if known is not None:
            return known.result(), known.source or known.id
        if self.report.roofline_gflops is None:
            self._get_ready(measurer, observer)
        best = self.report.best_cost
        hopeless = HOPELESS_MARGIN * best if best < float("inf") else None
        result = measurer.measure(self.request.template, config, hopeless)
        # Without a run of its own, it was answered with that of an equal kernel.
        twin = self.codes.get(result.code) if "run" not in result.phases else None
        return result, twin

    def _get_ready(self, measurer: LocalMeasurer, observer: Observer) -> None:
        report = self.report
        for default in self.space.defaults[:1]:
            measurer.watch(self.request.template, default)
        report.peak_gflops, report.roofline_gflops = measurer.ceilings()
        observer.ready(report.roofline_gflops)

    def _count(self, observer: Observer, config: Config, result: Result, origin: str) -> None:
        report = self.report
        report.trials += 1
        setattr(report, origin, getattr(report, origin) + 1)
        if result.failure is not None:
            report.failures[result.failure.value] += 1
        if result.cost < report.best_cost:
            report.best, report.best_cost = config, result.cost
        observer.trial(Trial(report.trials, config, result, origin, report.best_cost))

    def _append(self, record: Record) -> None:
        self.sequence += 1
        if self.log is not None:
            self.log.append([record])

    def _all_failed(self) -> str:
        results = self.searcher.results.values()
        messages = list(
            dict.fromkeys(f"{r.failure.value}: {r.message}" for r in results if r.failure)
        )
        if not self.report.trials:
            return f"there is no legal config to try in {self.space!r}"
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.report.failures.most_common())
        first = " | ".join(messages[:3]).replace("\n", " ")
        return f"all {self.report.trials} trials failed ({kinds}); first: {first}"

    # -- the winner -----------------------------------------------------------------------------

    def _final(self, measurer: LocalMeasurer, observer: Observer) -> None:
        wanted = {*self.request.final.libraries}
        finals = [r for r in self.own if isinstance(r, FinalRecord)]
        done = [r for r in finals if wanted <= {c.label for c in r.candidates}]
        last = max(done, key=lambda r: (r.trials, r.time), default=None)
        if last is not None and last.trials == self.report.trials:
            adopt(last, self.report, self.space)
            self.report.final_from_log = True
            return
        ranked = sorted(
            ((r.cost, i, c) for i, (c, r) in enumerate(self.searcher.results.items()) if r.ok),
        )
        finalists = [config for _, _, config in ranked[: self.request.final.finalists]]
        default = next(iter(self.space.defaults), None)
        result = run_final(
            measurer,
            self.request.template,
            finalists,
            default,
            self.request.final,
            observer.final,
        )
        record = winner_record(self.header, self.sequence, result, self.report)
        self._append(record)
        adopt(record, self.report, self.space)
