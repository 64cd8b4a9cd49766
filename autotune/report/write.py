"""Write everything a comparison leaves behind into one folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import AutotuneError
from autotune.report import comparison, plots
from autotune.report.html import render

if TYPE_CHECKING:
    from autotune.compare.campaign import Campaign
    from autotune.compare.summary import Summary


def make_folder(folder: Path) -> None:
    """Create the folder early, so that a long comparison does not end without one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AutotuneError(f"cannot create the folder {folder}: {error.strerror}") from None


def write_report(campaign: Campaign, summary: Summary, folder: Path) -> list[Path]:
    """Write curves.csv, runs.csv, summary.json, report.html and a PNG per problem.

    Also winners.csv, if what the runs named was measured again. Without matplotlib there are no
    pictures, and the HTML says so.

    Returns
    -------
    The files written.
    """
    make_folder(folder)
    files = [folder / name for name in ("curves.csv", "runs.csv", "summary.json", "report.html")]
    comparison.write_curves_csv(campaign, summary, files[0])
    comparison.write_runs_csv(campaign, files[1])
    comparison.write_json(campaign, summary, files[2])
    if campaign.remeasured is not None:
        files.append(folder / "winners.csv")
        comparison.write_winners_csv(campaign, files[-1])
    pictures = []
    for number, problem in enumerate(summary.problems if plots.have_matplotlib() else (), 1):
        figure = plots.draw_problem(campaign, summary, problem)
        caption = f"{problem.problem.name}: mean over seeds, with 95 % bootstrap bands"
        pictures.append((caption, plots.figure_bytes(figure, "svg")))
        files.append(folder / f"curves-{number}.png")
        plots.save(figure, files[-1])
    files[3].write_text(render(summary, pictures), encoding="utf-8")
    return files
