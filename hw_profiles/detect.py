"""Find out what this machine is, from what its kernel reports.

Feature flags decide what the CPU can do, never its model number: hypervisors report old or invented
model numbers, and hide flags. Everything is read below a root folder, so that tests can feed the
recorded trees of other machines.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from autotune.hw_profiles.cgroups import cpu_quota
from autotune.hw_profiles.isa import ARM_FEATURES, X86_FEATURES, CpuModel, arm_model, x86_model
from autotune.hw_profiles.profile import (
    CpuIdentity,
    HardwareProfile,
    Peaks,
    digest,
    find_profile,
)

_CPUS = "sys/devices/system/cpu"
_NVIDIA_SMI_SECONDS = 10.0
#: Used where the kernel reports no caches; small, so that tiles derived from them fit anywhere.
_ASSUMED_CACHES = {"l1d_bytes": 32 << 10, "l2_bytes": 256 << 10, "l3_bytes": 4 << 20}
_CACHE_FIELDS = {"1": "l1d_bytes", "2": "l2_bytes", "3": "l3_bytes"}


@dataclass(frozen=True)
class CudaDevice:
    """One NVIDIA GPU that ``nvidia-smi`` lists; ``arch`` is such as ``sm_90``."""

    name: str
    arch: str


def detect_cpu(root: Path = Path("/"), cpus: Collection[int] | None = None) -> HardwareProfile:
    """Return the profile of the CPU described below ``root``.

    Parameters
    ----------
    root
        Folder that holds ``proc`` and ``sys``.
    cpus
        Logical CPUs this process may use. By default the affinity mask for the real root, and
        every listed CPU for another. Ask before TVM runs its first parallel kernel, which narrows
        the mask of the calling thread.

    Returns
    -------
    HardwareProfile
        With ``assumed`` naming what the kernel did not report and was guessed.
    """
    blocks = _cpuinfo(root)
    first = blocks[0] if blocks else {}
    listed = {int(block["processor"]) for block in blocks if block.get("processor", "").isdigit()}
    listed = listed or set(range(os.cpu_count() or 1))
    if cpus is None:
        cpus = _affinity() if root == Path("/") else listed
    allowed = sorted(listed & set(cpus)) or sorted(listed)
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    isa = _isa(first)
    arch, features, simd_bits, registers = _capabilities(isa, first, flags)
    caches, instances, assumed = _caches(root, allowed)
    known = find_profile(arch)
    model_name = first.get("model name") or platform.processor() or isa
    return HardwareProfile(
        kind="cpu",
        name=f"{model_name} ({known.name if known else arch})",
        arch=arch,
        isa=isa,
        features=features,
        physical_cores=_physical_cores(root, blocks, allowed),
        logical_cores=len(allowed),
        l1d_bytes=caches["l1d_bytes"],
        l2_bytes=caches["l2_bytes"],
        l3_bytes=caches["l3_bytes"],
        l3_instances=instances,
        simd_bits=simd_bits,
        vector_registers=registers,
        cpu_quota=cpu_quota(root),
        assumed=assumed,
        peaks=_peaks(known, root, allowed),
        identity=CpuIdentity(
            vendor=first.get("vendor_id") or first.get("CPU implementer", ""),
            model_name=model_name,
            family=first.get("cpu family") or first.get("CPU architecture", ""),
            model=first.get("model") or first.get("CPU part", ""),
            stepping=first.get("stepping") or first.get("CPU revision", ""),
            microcode=first.get("microcode", ""),
            flags_digest=digest(tuple(flags)),
            machine_cores=_physical_cores(root, blocks, sorted(listed)),
            kernel_release=_read(root / "proc/sys/kernel/osrelease") or platform.release(),
            hypervisor="hypervisor" in flags,
        ),
    )


def cuda_devices() -> tuple[CudaDevice, ...]:
    """Return the GPUs that ``nvidia-smi`` lists; none where it is absent, fails or hangs."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    query = [program, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [line.rsplit(",", 1) for line in done.stdout.splitlines() if "," in line]
    return tuple(
        CudaDevice(name.strip(), "sm_" + capability.strip().replace(".", ""))
        for name, capability in rows
    )


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """Return one dict per paragraph of ``/proc/cpuinfo``; none where there is no such file."""
    blocks = []
    for paragraph in (_read(root / "proc/cpuinfo") or "").split("\n\n"):
        pairs = (line.partition(":") for line in paragraph.splitlines() if ":" in line)
        block = {key.strip(): value.strip() for key, _, value in pairs}
        if "processor" in block:
            blocks.append(block)
    return blocks


def _isa(block: dict[str, str]) -> str:
    if "flags" in block:
        return "x86_64"
    if "CPU implementer" in block:
        return "aarch64"
    machine = platform.machine().lower()
    return "x86_64" if machine == "amd64" else machine


def _capabilities(
    isa: str, block: dict[str, str], flags: frozenset[str]
) -> tuple[str, tuple[str, ...], int, int]:
    """Return arch, features, vector width in bits and number of vector registers."""
    if isa == "x86_64":
        model: CpuModel = x86_model(block.get("vendor_id", ""), flags)
        features = tuple(flags & X86_FEATURES.keys())
        if "avx512f" in flags:
            return model.mcpu, features, 512, 32
        return model.mcpu, features, 256 if "avx" in flags else 128, 16
    if isa == "arm64":  # macOS names it so; M1 is what every such machine can at least do
        return "apple-m1", ("asimd",), 128, 32
    if isa == "aarch64":
        # 128 even with SVE: fixed-width vectors are what kernels are scheduled with.
        model = arm_model(block.get("CPU implementer", ""), block.get("CPU part", ""), flags)
        return model.mcpu, tuple(flags & ARM_FEATURES.keys()), 128, 32
    return "generic", (), 128, 16


def _physical_cores(root: Path, blocks: list[dict[str, str]], allowed: list[int]) -> int:
    """Count the cores that the allowed hardware threads belong to."""
    numbers = {
        block["processor"]: f"{block['physical id']}:{block['core id']}"
        for block in blocks
        if "physical id" in block and "core id" in block
    }
    cores = set()
    for cpu in map(str, allowed):
        topology = root / _CPUS / f"cpu{cpu}" / "topology"
        siblings = _read(topology / "core_cpus_list") or _read(topology / "thread_siblings_list")
        cores.add(siblings or numbers.get(cpu, cpu))
    return len(cores)


def _caches(root: Path, allowed: list[int]) -> tuple[dict[str, int], int, tuple[str, ...]]:
    """Return cache sizes by field, the number of last-level caches, and the fields assumed."""
    sizes: dict[str, int] = {}
    l3_groups = set()
    for cpu in allowed:
        for level, size, shared in _cache_indices(root / _CPUS / f"cpu{cpu}" / "cache"):
            field = _CACHE_FIELDS.get(level)
            if field is not None:
                sizes.setdefault(field, size)
            if field == "l3_bytes":
                l3_groups.add(shared)
    if not sizes:
        return dict(_ASSUMED_CACHES), 1, tuple(_ASSUMED_CACHES)
    # A kernel that reports caches but no third level is believed: there are CPUs without one.
    sizes.setdefault("l3_bytes", 0)
    assumed = tuple(name for name in _ASSUMED_CACHES if name not in sizes)
    return {**_ASSUMED_CACHES, **sizes}, max(1, len(l3_groups)), assumed


def _cache_indices(folder: Path) -> Iterator[tuple[str, int, str]]:
    """Yield level, bytes and sharing CPUs of each data or unified cache."""
    for index in sorted(folder.glob("index*")):
        level, size = _read(index / "level"), _read(index / "size")
        if level and size and _read(index / "type") != "Instruction":
            yield level, _bytes(size), _read(index / "shared_cpu_list") or ""


def _bytes(text: str) -> int:
    """Read a size such as ``1024K``."""
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    return int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text)


def _peaks(known: HardwareProfile | None, root: Path, allowed: list[int]) -> Peaks | None:
    """Return the microarchitecture's rates with the clock that this machine reports, if it does."""
    if known is None or known.peaks is None:
        return None
    khz = _read(root / _CPUS / f"cpu{allowed[0]}" / "cpufreq/cpuinfo_max_freq")
    if not khz or not khz.isdigit():
        return known.peaks
    source = f"{known.peaks.source}; clock: cpuinfo_max_freq"
    return replace(known.peaks, boost_ghz=int(khz) / 1e6, source=source)


def _read(path: Path) -> str | None:
    """Return the stripped text of a file, or None where it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
