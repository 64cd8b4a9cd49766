"""A comparison as text tables, CSV and JSON."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.compare.campaign import Campaign
from autotune.compare.remeasure import named_config
from autotune.compare.statistics import Interval, Reached
from autotune.compare.summary import ProblemSummary, Standing, Summary


@dataclass(frozen=True)
class TextTable:
    """A titled table of strings, shown alike on the console, in HTML and in Markdown."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


# -- what is said ---------------------------------------------------------------------------------


def accounting(summary: Summary) -> str:
    """Say in one paragraph under which rules the methods were compared."""
    protocol = summary.protocol
    real = any(problem.problem.optimum is None for problem in summary.problems)
    noise = (
        "Each config was measured once, and all methods that search this space share its result."
        if real
        else "Each config has its one recorded cost."
        if protocol.noise == "none"
        else "Each config is read as the median of 3 draws from its recorded readings; the score is"
        " the true cost of the config that the method would name, not its best reading."
    )
    paying = sorted({s.entrant for p in summary.problems for s in p.standings if s.illegal})
    illegal = (
        f" Illegal configs cost nothing to measure but count as trials of {', '.join(paying)},"
        " which propose them (column 'illegal'); the others never do."
        if paying
        else " No method proposed an illegal config."
    )
    seeds, intervals = (
        ("1 seed", "One seed gives no interval, and no test can be significant.")
        if len(protocol.seeds) == 1
        else (
            f"{len(protocol.seeds)} seeds",
            "Intervals are 95 % percentile bootstrap intervals of the mean over seeds.",
        )
    )
    return (
        f"{protocol.trials} trials, {seeds}, the same for every method; batches of"
        f" {protocol.batch}. A trial is a unique measurement; a recorded failure is one too."
        f"{illegal} {noise} {intervals} A run that ended early keeps the config it had."
        f"{_warm_starts(summary)}"
    )


def _warm_starts(summary: Summary) -> str:
    """Say what the methods knew before they began, if they did."""
    problems = [problem.problem for problem in summary.problems]
    return "".join(
        f" Warm start of {problem.name}: {problem.meta['warm_start']}."
        for problem in problems
        if "warm_start" in problem.meta
    )


def tables(summary: Summary) -> list[TextTable]:
    """Return everything that a reader of the comparison should see, as tables."""
    found: list[TextTable] = []
    for problem in summary.problems:
        found.append(_scores(summary, problem))
        found.append(_effort(summary, problem))
        found.append(_ranks(summary, problem))
        found += [_versus(summary, problem, baseline) for baseline in summary.baselines]
    if len(summary.problems) > 1:
        found.append(_overall(summary))
    found += [_confirmed(summary, baseline) for baseline in summary.baselines if summary.confirmed]
    if summary.biases:
        found.append(_biases(summary))
    return found


def failures(summary: Summary) -> list[str]:
    """Return one line for each run that ended with an exception."""
    return [
        f"{problem.problem.name}: {standing.entrant}: {error}"
        for problem in summary.problems
        for standing in problem.standings
        for error in standing.errors
    ]


def _scores(summary: Summary, problem: ProblemSummary) -> TextTable:
    known = problem.problem.optimum is not None
    what = "fraction of the optimum" if known else "fraction of the best config found by any method"
    legal = f"{problem.problem.legal:,} of " if problem.problem.legal is not None else ""
    return TextTable(
        f"{problem.problem.name}: {what}",
        ("searcher", *(f"after {n}" for n in summary.checkpoints), "AUC"),
        tuple(
            (
                _name(standing),
                *(_interval(standing.score.get(n)) for n in summary.checkpoints),
                _interval(standing.auc),
            )
            for standing in problem.standings
        ),
        f"{legal}{problem.problem.size:,} configs;"
        f" {'optimum' if known else 'best found'} {problem.reference * 1e3:.6g} ms. AUC: mean over"
        " all trials.",
    )


def _effort(summary: Summary, problem: ProblemSummary) -> TextTable:
    budget = summary.protocol.trials
    return TextTable(
        f"{problem.problem.name}: trials and overhead",
        ("searcher", "to 95 %", "to 99 %", "trials", "illegal", "failed", "ms/proposal"),
        tuple(
            (
                _name(standing),
                *(_reached(standing.goals.get(goal), budget) for goal in (0.95, 0.99)),
                f"{standing.trials:.1f}",
                f"{standing.illegal:.1f}",
                f"{standing.failed:.1f}",
                f"{standing.overhead * 1e3:.2f}",
            )
            for standing in problem.standings
        ),
        f"Trials to a goal: median over all runs, those that never got there counting as later (>"
        f" {budget}: censored), and how many did. Trials, illegal and failed: means per run."
        " Overhead: seconds inside the method per trial, the median over runs.",
    )


def _ranks(summary: Summary, problem: ProblemSummary) -> TextTable:
    by_label = {standing.entrant: standing.rank for standing in problem.standings if standing.rank}
    return _rank_table(summary, problem.problem.name, "seeds", by_label, problem.friedman)


def _overall(summary: Summary) -> TextTable:
    over = "problems and seeds"
    return _rank_table(
        summary, "all problems", over, summary.overall_rank, summary.overall_friedman
    )


def _rank_table(
    summary: Summary,
    name: str,
    over: str,
    by_label: Mapping[str, Mapping[int, float]],
    tests: Mapping[int, tuple[float, float] | None],
) -> TextTable:
    last = summary.checkpoints[-1]
    test = tests[last]
    said = "no test" if test is None else f"chi squared {test[0]:.2f}, p {_p(test[1])}"
    return TextTable(
        f"{name}: mean rank",
        ("searcher", *(f"after {n}" for n in summary.checkpoints)),
        tuple(
            (label, *(f"{rank[n]:.2f}" for n in summary.checkpoints))
            for label, rank in by_label.items()
        ),
        f"Over {over}, 1 the best, equal scores sharing ranks; methods with errors are left out."
        f" Friedman after {last} trials: {said}.",
    )


def _versus(summary: Summary, problem: ProblemSummary, baseline: str) -> TextTable:
    rows = []
    for standing in problem.standings:
        duels = {duel.trials: duel for duel in standing.versus if duel.baseline == baseline}
        if not duels:
            continue
        cells = []
        for n in summary.checkpoints:
            duel = duels[n]
            ratio = "-" if duel.cost_ratio is None else _interval(duel.cost_ratio)
            cells.append(f"{ratio}  {duel.wins}/{duel.ties}/{duel.losses}  p {_p(duel.p_holm)}")
        rows.append((_name(standing), *cells))
    return TextTable(
        f"{problem.problem.name}: cost relative to {baseline}",
        ("searcher", *(f"after {n}" for n in summary.checkpoints)),
        tuple(rows),
        f"Geometric mean over seeds of cost / cost of {baseline} (below 1: faster), with interval;"
        " wins/ties/losses; p of Wilcoxon's signed-rank test paired by seed, corrected by Holm over"
        " this table.",
    )


def _confirmed(summary: Summary, baseline: str) -> TextTable:
    duels = [duel for duel in summary.confirmed if duel.baseline == baseline]
    missing = sum(duel.missing for duel in duels)
    return TextTable(
        f"{duels[0].problem if duels else ''}: cost relative to {baseline}, as found and measured"
        " again",
        ("searcher", "as found", "measured again", "w/t/l", "p"),
        tuple(
            (
                duel.entrant,
                _interval(duel.found),
                _interval(duel.remeasured),
                f"{duel.wins}/{duel.ties}/{duel.losses}",
                _p(duel.p_holm),
            )
            for duel in duels
        ),
        "The configs that all runs named at the end, measured in turns, round by round; per seed"
        f" the median over rounds of cost / cost of {baseline}'s config in the same round, and the"
        " geometric mean over seeds of that, with interval. As found: the same from the readings of"
        " the searches, of which each is the lowest of many. Wins, ties (the same config) and"
        " losses as measured again; p as above, over this table."
        + (f" {missing} pairs are left out: one of the two was not measured." if missing else ""),
    )


def _biases(summary: Summary) -> TextTable:
    return TextTable(
        f"{summary.biases[0].problem}: named configs measured again",
        ("searcher", "runs", "cost / best", "reading / cost", "largest spread"),
        tuple(
            (
                bias.entrant,
                str(bias.runs),
                _interval(bias.cost),
                _interval(bias.reading),
                f"{bias.spread:.2f}",
            )
            for bias in summary.biases
        ),
        "Geometric means over runs. Cost / best: measured again, relative to the best of all named"
        " configs. Reading / cost: below 1 where the search's reading flattered the config. Spread:"
        " slowest / fastest round of one config.",
    )


def _name(standing: Standing) -> str:
    return f"{standing.entrant} (failed)" if standing.errors else standing.entrant


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else str(interval)


def _p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}"


def _reached(goal: Reached | None, budget: int) -> str:
    if goal is None:
        return "-"
    median = f"> {budget}" if goal.median is None else f"{goal.median:g}"
    return f"{median} ({goal.reached}/{goal.runs})"


# -- where it is written --------------------------------------------------------------------------


def print_summary(summary: Summary, console: Any) -> None:
    """Print the tables with rich."""
    from rich.table import Table

    for text in tables(summary):
        table = Table(title=text.title, title_justify="left", caption=text.note)
        table.caption_justify = "left"
        for index, column in enumerate(text.header):
            table.add_column(column, justify="right" if index else "left", no_wrap=not index)
        for row in text.rows:
            table.add_row(*row)
        console.print(table, markup=False)
    console.print(accounting(summary), markup=False)
    for line in failures(summary):
        console.print(f"FAILED {line}", markup=False, soft_wrap=True)


def markdown(table: TextTable) -> str:
    """Return a table as Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (table.header, *table.rows)]
    lines.insert(1, "|" + " --- |" * len(table.header))
    return f"### {table.title}\n\n" + "\n".join(lines) + f"\n\n{table.note}\n"


def write_curves_csv(campaign: Campaign, summary: Summary, path: Path) -> None:
    """Write one row per trial; the same comparison always gives the same file."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("problem", "searcher", "seed", "trial", "config", "reading_s", "failure")
            + ("named_s", "score")
        )
        writer.writerows(_curve_rows(campaign, summary))


def _curve_rows(campaign: Campaign, summary: Summary) -> Iterator[tuple[Any, ...]]:
    reference = {p.problem.name: p.reference for p in summary.problems}
    for trace in campaign.traces:
        for number, step in enumerate(trace.steps, 1):
            yield (
                trace.problem,
                trace.entrant,
                trace.seed,
                number,
                step.config,
                "" if step.failure else repr(step.reading),
                step.failure,
                "" if step.named == math.inf else repr(step.named),
                repr(reference[trace.problem] / step.named),
            )


def write_runs_csv(campaign: Campaign, path: Path) -> None:
    """Write one row per run; its last column, the overhead, differs from time to time."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("problem", "searcher", "seed", "trials", "illegal", "failed", "named_s", "error")
            + ("overhead_s_per_proposal",)
        )
        for trace in campaign.traces:
            named = trace.named_after(len(trace.steps))
            writer.writerow(
                (
                    trace.problem,
                    trace.entrant,
                    trace.seed,
                    len(trace.steps),
                    trace.illegal,
                    trace.failed,
                    "" if named == math.inf else repr(named),
                    trace.error,
                    f"{trace.overhead / max(1, len(trace.steps)):.6f}",
                )
            )


def write_winners_csv(campaign: Campaign, path: Path) -> None:
    """Write one row per run that named a config: its reading, and its cost measured again."""
    again = campaign.remeasured
    assert again is not None
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ("problem", "searcher", "seed", "config", "reading_s", "remeasured_s", "rounds_s")
            + ("failure",)
        )
        for trace in campaign.traces:
            if (named := named_config(trace)) is not None:
                config, reading = named
                costs = again.costs.get(config, ())
                writer.writerow(
                    (trace.problem, trace.entrant, trace.seed, config, repr(reading))
                    + (repr(again.cost(config)) if costs else "",)
                    + (" ".join(map(repr, costs)), again.failures.get(config, ""))
                )


def summary_json(campaign: Campaign, summary: Summary) -> dict[str, Any]:
    """Return all figures and the rules as plain JSON."""
    data = dataclasses.asdict(summary)
    data["accounting"] = accounting(summary)
    data["searchers"] = [
        {"label": e.label, "name": e.name, "preset": e.preset, "options": dict(e.options)}
        for e in campaign.entrants
    ]
    if campaign.remeasured is not None:
        data["remeasured"] = dataclasses.asdict(campaign.remeasured)
    return data


def write_json(campaign: Campaign, summary: Summary, path: Path) -> None:
    """Write :func:`summary_json`."""
    text = json.dumps(summary_json(campaign, summary), indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
