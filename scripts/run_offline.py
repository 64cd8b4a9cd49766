"""Run what scripts/pack_offline packed, on a machine with a GPU and no network.

Needs Python 3.10 or later with numpy and ml_dtypes; torch with CUDA to compare with cuBLAS. First
numerics, then for each product its kernels and, in turns, the best, the default and torch; last,
where the archive has the compiler, products are tuned. What is done is kept in the folder of
results, so that the same command goes on where it was. Exit codes: 0 all done and right, 1
something is left, wrong or failed, 2 it cannot run here.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

FOLDER = "autotune-offline"
_NEEDED = ("numpy", "ml_dtypes")
#: Where the archive has the compiler.
_SITE = "site"
#: Of one search, so that each piece of the work ends well within 10 minutes.
_SEARCH_SECONDS = 360.0


class CannotRun(Exception):
    """Why this machine cannot run the archive."""


def unpacked(archive: Path, folder: Path) -> Path:
    """Return where the archive's files are; unpacks them unless that very archive has been."""
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    stamp = folder / FOLDER / ".archive"
    if not stamp.exists() or stamp.read_text() != digest:
        with tarfile.open(archive, "r:xz") as tar:
            for member in tar.getmembers():
                inside = Path(member.name)
                if not member.isfile() or inside.is_absolute() or ".." in inside.parts:
                    raise CannotRun(f"{archive} holds {member.name!r}, which is not of our making")
            tar.extractall(folder)
        if (folder / FOLDER / _SITE).exists():
            _restore((folder / FOLDER).resolve())
        stamp.write_text(digest)
    return folder / FOLDER


def _restore(home: Path) -> None:
    """Give libraries that were packed by columns their form and name back."""
    sys.path.insert(0, str(home))
    from elf_columns import by_rows

    for packed in home.glob(f"{_SITE}/*/lib/*.columns"):
        packed.with_suffix("").write_bytes(by_rows(packed.read_bytes()))
        packed.unlink()


class Run:
    """The rows of a folder of results, and the plan's work in order."""

    def __init__(self, home: Path, out: Path, minutes: float, library: str | None) -> None:
        from autotune.hw_profiles import cuda_driver, detect_cuda

        self.home, self.out, self.library = home, out, library or cuda_driver.LIBRARY
        self.end = time.monotonic() + 60 * minutes if minutes else float("inf")
        self.plan = json.loads((home / "plan.json").read_text("utf-8"))
        self.profile = detect_cuda(0, self.library)
        built = self.plan["gpu"]["arch"]
        if self.profile.arch != built:
            raise CannotRun(
                f"the kernels are for {built}; {self.profile.name} is {self.profile.arch}"
            )
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "rows.jsonl"
        lines = self.path.read_text("utf-8").splitlines() if self.path.exists() else []
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.done = {(row["piece"], row["key"]) for row in self.rows}
        self.left = self.bad = 0

    def keep(self, piece: str, key: str, **values: Any) -> None:
        row = {"piece": piece, "key": key, **values}
        self.rows.append(row)
        self.done.add((piece, key))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def wanted(self, piece: str, items: list[dict[str, Any]]) -> Iterator[tuple[Any, list[Any]]]:
        """Yield the items that are not done, as workload and kernels, while there is time."""
        from autotune.measure.cuda_packed import PackedKernel
        from autotune.workload import Gemm

        for item in items:
            workload = Gemm.from_json(item["workload"])
            kernels = [PackedKernel.from_json(k) for k in item["kernels"]]
            if (piece, _key(piece, workload, kernels)) in self.done:
                continue
            if time.monotonic() > self.end:
                self.left += 1
                continue
            print(f"{piece}: {workload.key}", file=sys.stderr)
            yield workload, kernels

    def measurer(self, workload: Any, kernels: list[Any]) -> Any:
        from autotune.measure.cuda_packed import PackedMeasurer

        return PackedMeasurer(workload, self.profile, kernels, self.home, library=self.library)

    def numerics(self) -> None:
        for workload, kernels in self.wanted("numerics", self.plan["numerics"]):
            (packed,) = kernels
            with self.measurer(workload, kernels) as measurer:
                result = measurer.measure(packed.template, packed.config)
            self.keep(
                "numerics",
                _key("numerics", workload, kernels),
                workload=workload.to_json(),
                template=packed.template,
                config=packed.config.to_json(),
                **_outcome(result),
            )

    def bench(self) -> None:
        for workload, kernels in self.wanted("bench", self.plan["bench"]):
            with self.measurer(workload, kernels) as measurer:
                self._bench(measurer, workload, kernels)

    def _bench(self, measurer: Any, workload: Any, kernels: list[Any]) -> None:
        from bench_rows import Row

        from autotune.errors import MeasureError
        from autotune.identity import tool_versions
        from autotune.kernels.base import get_template
        from autotune.measure.final import FinalOptions, run_final

        results: list[tuple[Any, Any]] = []
        named = f"{workload.key} {self.profile.name}".encode()
        run = f"offline-{hashlib.sha256(named).hexdigest()[:12]}"
        for packed in kernels:
            result = measurer.measure(packed.template, packed.config)
            results.append((packed, result))
            template = get_template(packed.template)
            self.keep(
                "trial",
                f"{workload.key} {packed.config.key}",
                run=run,
                workload=workload.to_json(),
                template={"name": template.name, "version": template.version},
                config=packed.config.to_json(),
                hardware=self.profile.to_json(),
                tools={**tool_versions(), "cuda_compiler": self.plan["compiler"]},
                **_outcome(result),
            )
        good = [(r.cost, i, p) for i, (p, r) in enumerate(results) if r.ok]
        if not good:
            self.keep("bench", workload.key, row=None)
            return
        best = [p.config for _, _, p in sorted(good)[:2]]
        template_name = kernels[0].template
        try:
            final = run_final(
                measurer,
                template_name,
                best,
                kernels[0].config,
                FinalOptions(2, 9, 0.1, ("torch",)),
            )
            winner = final.winner
        except MeasureError as error:
            print(f"{workload.key}: {error}", file=sys.stderr)
            self.keep("bench", workload.key, row=None)
            return
        for contender in final.contenders:
            if contender.failure:
                print(f"{workload.key}: {contender.label}: {contender.failure}", file=sys.stderr)
        costs = {c.label: list(c.costs) for c in final.contenders if c.costs}
        row = Row(
            workload.to_json(),
            1,
            len(kernels),
            None,
            template_name,
            {**costs, "tuned": list(winner.costs)},
            final.peak_gflops,
            time.strftime("%Y-%m-%d"),
        )
        self.keep("bench", workload.key, row=asdict(row))

    def tune(self) -> None:
        """Tune the products that the plan names; each has a budget of time."""
        import bench_cuda

        from autotune.errors import AutotuneError
        from autotune.measure.cuda import CudaMeasurer
        from autotune.workload import Gemm

        plan = self.plan.get("tune")
        if plan is None:
            return
        workloads = [Gemm.from_json(workload) for workload in plan["workloads"]]
        left = [w for w in workloads if ("tuned", w.key) not in self.done]
        reason = _no_tuning(plan)
        if left and reason is not None:
            print(f"nothing is tuned: {reason}", file=sys.stderr)
            self.left += len(left)
            return
        arguments = bench_cuda.parse(["--log", str(self.out / "tuned.jsonl")])
        arguments.trials, arguments.seconds = plan["trials"], _SEARCH_SECONDS
        for workload in left:
            if time.monotonic() > self.end:
                self.left += 1
                continue
            print(f"tune: {workload.key}", file=sys.stderr)

            def measurer(workload: Gemm = workload) -> CudaMeasurer:
                return CudaMeasurer(workload, self.profile, library=self.library)

            try:
                row = bench_cuda.measure(workload, self.profile, arguments, measurer)
            except AutotuneError as error:
                print(f"{workload.key}: {error}", file=sys.stderr)
                self.keep("tuned", workload.key, row=None)
                continue
            self.keep("tuned", workload.key, row=asdict(row))

    def conclude(self, command: str) -> int:
        """Write the tables and print what came of it; return the exit code."""
        import bench_cuda
        from bench_rows import Row

        wrong = [r for r in self.rows if r["piece"] in ("numerics", "trial") and r["failure"]]
        checked = [r for r in self.rows if r["piece"] == "numerics"]
        lines = [f"numerics: {sum(not r['failure'] for r in checked)} of {len(checked)} right"]
        lines += [f"{r['key']}: {r['failure']}: {r['message']}" for r in wrong]
        rows = [r["row"] for r in self.rows if r["piece"] == "bench"]
        tuned = [r["row"] for r in self.rows if r["piece"] == "tuned"]
        # A product that was tuned too stands in the table with what that gave.
        best = {Row(**row).key: Row(**row) for row in (*rows, *tuned) if row is not None}
        measured = list(best.values())
        if measured:
            arguments = bench_cuda.parse([])
            arguments.command, arguments.rounds = command, 9
            arguments.trials = max(row.trials for row in measured)
            text = bench_cuda.document(measured, {}, self.profile, arguments)
            (self.out / "results-cuda.md").write_text(text, "utf-8")
        lines.append(
            f"bench: {len(rows) - rows.count(None)} products measured, tuning:"
            f" {len(tuned) - tuned.count(None)} products, {self.left} items left"
        )
        (self.out / "summary.txt").write_text("\n".join([*lines, ""]), "utf-8")
        print("\n".join(lines))
        return 1 if wrong or self.left or None in rows or None in tuned else 0


def _no_tuning(plan: dict[str, Any]) -> str | None:
    """Return why the packed compiler cannot be used here, or None."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if plan["python"] != here:
        return f"the archive's compiler is for Python {plan['python']}, and this is {here}"
    missing = [name for name in plan["needs"] if importlib.util.find_spec(name) is None]
    if missing:
        return f"this Python has no {' and no '.join(missing)}"
    from autotune.kernels.cuda.compile import find_compiler

    return None if find_compiler() else "there is neither nvcc nor NVRTC"


def _key(piece: str, workload: Any, kernels: list[Any]) -> str:
    if piece != "numerics":
        return str(workload.key)
    return f"{workload.key} {kernels[0].template} {kernels[0].config.key}"


def _outcome(result: Any) -> dict[str, Any]:
    return {
        "costs": list(result.costs),
        "failure": None if result.failure is None else result.failure.value,
        "message": result.message,
        "phases": dict(result.phases),
        "features": dict(result.features),
        "code": result.code,
    }


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/run_offline", description=__doc__)
    parser.add_argument("archive", type=Path, nargs="?", default=Path(f"{FOLDER}.tar.xz"))
    parser.add_argument("--folder", type=Path, default=Path(), help="where to unpack it")
    parser.add_argument("--out", type=Path, default=Path("offline-results"))
    parser.add_argument("--minutes", type=float, default=0, help="start nothing after that")
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    try:
        if missing:
            raise CannotRun(f"this Python has no {' and no '.join(missing)}")
        home = unpacked(arguments.archive, arguments.folder).resolve()
        # Workers are started as modules of the package.
        paths = [str(home), str(home / _SITE)]
        sys.path[:0] = paths
        os.environ["PYTHONPATH"] = os.pathsep.join(
            [*paths, *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        from autotune.errors import AutotuneError

        try:
            run = Run(home, arguments.out, arguments.minutes, arguments.driver)
        except AutotuneError as error:
            raise CannotRun(str(error)) from None
    except (CannotRun, OSError, tarfile.TarError) as error:
        print(f"run_offline: {error}", file=sys.stderr)
        return 2
    run.numerics()
    run.bench()
    run.tune()
    return run.conclude("scripts/run_offline " + " ".join(sys.argv[1:] if words is None else words))


if __name__ == "__main__":
    sys.exit(main())
