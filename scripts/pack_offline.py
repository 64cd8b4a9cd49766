"""Build kernels without a GPU and pack them for a GPU machine that has no network.

The archive holds this package's sources, machine code for small odd products in every type and
layout (numerics), and for each product of the chosen suites the default config and the best others
by the static model (bench). With --tune it also holds TVM's compiler, and products of these suites
are tuned there, where nvcc or NVRTC is needed then. scripts/run_offline runs it there; --read
brings what came of it into a tuning log here.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import random
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_cuda import SUITES, workloads
from numerics import NUMERICS
from offline_compiler import FILTERS as SMALL
from offline_compiler import HERE, compiler_files, in_archive

from autotune.errors import AutotuneError, NotApplicable
from autotune.hw_profiles import HardwareProfile, cuda_arch, resolve_target, tvm_target
from autotune.kernels.base import choose_template, get_template
from autotune.kernels.cuda.compile import CudaCompileError, compile_cubin, require_compiler
from autotune.kernels.cuda.model import CudaTemplate, estimate
from autotune.kernels.cuda.source import lower
from autotune.measure.cuda_packed import PackedKernel
from autotune.search.space import Config
from autotune.workload import Gemm

ROOT = Path(__file__).resolve().parents[1]
#: What one transfer to such a machine may hold.
LIMIT_MIB = 58
FOLDER = "autotune-offline"
FAST = ({"id": lzma.FILTER_LZMA2, "preset": 6},)
_DRAWN = 400
#: Parameters in which configs may differ and still count as the same try.
_FINE = ("stages", "group", "sms", "store", "pad", "unroll", "vector")


class Packer:
    """Compiles configs for one device and keeps their machine code, each once."""

    def __init__(self, profile: HardwareProfile) -> None:
        self.profile = profile
        self.compiler = require_compiler()
        self.files: dict[str, bytes] = {}

    def compiled(self, workload: Gemm, template: CudaTemplate, config: Config) -> PackedKernel:
        source = lower(template.build(workload, config), tvm_target(self.profile, 1))
        cubin = compile_cubin(source.text, cuda_arch(self.profile), source.threads, self.compiler)
        code = hashlib.sha256(cubin.image).hexdigest()[:16]
        name = f"cubins/{code}.cubin"
        self.files[name] = cubin.image
        features = {**cubin.resources.to_json(), "shared_bytes": source.shared_bytes}
        kernel = {**source.launch_json(), "file": name, "code": code}
        return PackedKernel(template.name, config, kernel, features)

    def numerics(self) -> Iterator[dict[str, Any]]:
        for name, workload, changes in NUMERICS:
            template = _cuda(name)
            space = template.space(workload, self.profile, 1)
            config = space.defaults[0].replace(**changes)
            if (broken := space.violated(config)) is not None:
                raise AutotuneError(f"{workload.key}: {config.key} breaks the rule {broken!r}")
            yield _item(workload, [self.compiled(workload, template, config)])

    def bench(self, workload: Gemm, configs: int) -> dict[str, Any] | None:
        """Return the default and the best others; None where no template computes it."""
        try:
            template = _cuda(choose_template("auto", workload, self.profile).name)
            template.space(workload, self.profile, 1)
        except NotApplicable as error:
            print(f"left out: {error}", file=sys.stderr)
            return None
        kernels = []
        for config in chosen(workload, template, self.profile):
            try:
                kernels.append(self.compiled(workload, template, config))
            except CudaCompileError as error:
                print(f"{workload.key}: {config.key}: {error}", file=sys.stderr)
            if len(kernels) == configs:
                break
        return _item(workload, kernels)


def _cuda(name: str) -> CudaTemplate:
    template = get_template(name)
    assert isinstance(template, CudaTemplate)
    return template


def _item(workload: Gemm, kernels: list[PackedKernel]) -> dict[str, Any]:
    return {"workload": workload.to_json(), "kernels": [k.to_json() for k in kernels]}


def chosen(workload: Gemm, template: CudaTemplate, profile: HardwareProfile) -> Iterator[Config]:
    """Yield the default, then the best of drawn configs, one for each tiling."""
    space = template.space(workload, profile, 1)
    yield space.defaults[0]
    rng = random.Random(0)
    best: dict[tuple[Any, ...], tuple[float, Config]] = {}
    for config in (space.sample(rng) for _ in range(_DRAWN)):
        seconds = estimate(template.work(workload, config), profile)
        tiling = tuple(value for name, value in config.items() if name not in _FINE)
        if seconds < best.get(tiling, (float("inf"), config))[0]:
            best[tiling] = (seconds, config)
    for _, config in sorted(best.values(), key=lambda pair: pair[0]):
        if config != space.defaults[0]:
            yield config


def sources() -> Iterator[tuple[str, bytes]]:
    """Yield what runs the kernels: the package, and the scripts that make the tables."""
    package = ROOT / "autotune"
    for path in sorted(package.rglob("*")) + [
        path
        for link in ("kernels", "search", "hw_profiles")
        for path in sorted((package / link).resolve().rglob("*"))
    ]:
        if path.suffix in (".py", ".toml") and path.is_file():
            inside = path.relative_to(package if path.is_relative_to(package) else ROOT)
            yield f"autotune/{inside}", path.read_bytes()
    for name in ("bench_rows.py", "bench_cuda.py", "elf_columns.py"):
        yield name, (ROOT / "scripts" / name).read_bytes()


def write_archive(
    path: Path, files: dict[str, bytes], filters: Sequence[Mapping[str, Any]] = FAST
) -> float:
    """Write a .tar.xz of files in one folder; return its size in MiB.

    ``filters`` are those of :mod:`lzma`.

    Raises
    ------
    AutotuneError
        If it is larger than one transfer may be.
    """
    packed = io.BytesIO()
    with (
        lzma.open(packed, "wb", filters=filters) as xz,
        tarfile.open(fileobj=xz, mode="w") as tar,
    ):
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(f"{FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    size = len(packed.getvalue()) / 2**20
    if size > LIMIT_MIB:
        raise AutotuneError(
            f"the archive would have {size:.1f} MiB, more than the {LIMIT_MIB} of one transfer: ask"
            " for fewer suites, types or configs, or leave out --tune"
        )
    path.write_bytes(packed.getvalue())
    return size


def pack(arguments: argparse.Namespace) -> None:
    profile = resolve_target(f"cuda:{arguments.gpu}")
    packer = Packer(profile)
    dtypes = arguments.dtypes.split(",")
    suites = [suite for suite in arguments.suite.split(",") if suite != "none"]
    numerics = list(packer.numerics())
    print(f"{len(numerics)} kernels for numerics", file=sys.stderr)
    bench: list[dict[str, Any]] = []
    for workload in dict.fromkeys(w for s in suites for w in workloads(s, dtypes, "nt")):
        item = packer.bench(workload, arguments.configs)
        if item is not None:
            bench.append(item)
            print(f"{workload.key}: {len(item['kernels'])} kernels", file=sys.stderr)
    plan: dict[str, Any] = {
        "version": 1,
        "gpu": profile.to_json(),
        "compiler": packer.compiler.description,
        "numerics": numerics,
        "bench": bench,
    }
    files = {**packer.files, **dict(sources())}
    tuned = [suite for suite in arguments.tune.split(",") if suite]
    if tuned:
        print("packing TVM's compiler: some minutes, and 3 GB of memory", file=sys.stderr)
        compiler, needs = compiler_files(arguments.python)
        files |= in_archive(compiler)
        wanted = dict.fromkeys(w for suite in tuned for w in workloads(suite, dtypes, "nt"))
        plan["tune"] = {
            "python": arguments.python,
            "needs": needs,
            "trials": arguments.trials,
            "workloads": [workload.to_json() for workload in wanted],
        }
    files["plan.json"] = json.dumps(plan).encode()
    size = write_archive(arguments.out, files, SMALL if tuned else FAST)
    print(f"{arguments.out}: {size:.1f} MiB, {len(packer.files)} kernels")


def read(folder: Path, log_path: Path) -> int:
    """Bring the trials in what ``run_offline`` wrote into a tuning log; return how many."""
    from autotune.identity import target_json, target_key
    from autotune.log import TuningLog, run_header, trial_record
    from autotune.trial import FailureKind, Result

    lines = (folder / "rows.jsonl").read_text("utf-8").splitlines()
    records: list[Any] = []
    for number, row in enumerate(map(json.loads, lines)):
        if row["piece"] != "trial":
            continue
        workload = Gemm.from_json(row["workload"])
        profile = HardwareProfile.from_json(row["hardware"])
        header = run_header(
            workload,
            target=target_json(profile, 1),
            target_key=target_key(profile, 1),
            template=row["template"],
            run=row["run"],
            search={"name": "offline"},
            hardware=profile.fingerprint(),
            tools=row["tools"],
        )
        result = Result(
            tuple(row["costs"]),
            FailureKind(row["failure"]) if row["failure"] else None,
            row["message"],
            row["phases"],
            code=row["code"],
            features=row["features"],
        )
        records.append(
            trial_record(
                header, number, row["config"], result, batch=number, asked=1, ask=0, tell=0
            )
        )
    # What was tuned there comes as a log of its own.
    records += TuningLog(folder / "tuned.jsonl").scan().records
    TuningLog(log_path).append(records)
    return sum(record.kind == "trial" for record in records)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/pack_offline", description=__doc__)
    parser.add_argument("--gpu", default="h100", help="the device by its data file's name")
    parser.add_argument("--suite", default="squares,odd,bert", help=f"none, or {', '.join(SUITES)}")
    parser.add_argument("--dtypes", default="bfloat16,float16", help="comma-separated")
    parser.add_argument("--tune", default="", help="suites to tune there, which packs the compiler")
    parser.add_argument("--trials", type=int, default=40, help="for each product of --tune")
    parser.add_argument("--python", default=HERE, help="version of Python there, for --tune")
    parser.add_argument("--configs", type=int, default=8, help="kernels for each product")
    parser.add_argument("--out", type=Path, default=Path(f"{FOLDER}.tar.xz"))
    parser.add_argument("--read", type=Path, help="folder of results, instead of packing")
    parser.add_argument("--log", type=Path, default=Path("offline.jsonl"), help="for --read")
    arguments = parser.parse_args(words)
    try:
        if arguments.read is None:
            pack(arguments)
        else:
            print(f"{read(arguments.read, arguments.log)} trials are now in {arguments.log}")
    except (AutotuneError, KeyError, OSError) as error:
        print(f"pack_offline: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
