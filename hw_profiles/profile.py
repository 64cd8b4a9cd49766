"""The frozen description of one piece of hardware, and the data files of known devices."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("cpu", "cuda", "rocm")
_DATA = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Peaks:
    """Datasheet rates, or what they would be by the clocks; a field without a source is empty.

    Parameters
    ----------
    source
        Where the figures come from.
    fma_per_cycle
        CPUs: (dtype, multiply-adds per cycle of one core), all vector units together.
    boost_ghz
        CPUs: highest clock in GHz. An upper bound: wide vectors may run below it.
    gflops
        GPUs: (dtype, dense GFLOP/s of the device), integer dtypes in GOP/s.
    memory_gb_s
        Memory bandwidth in GB/s (1e9 bytes).
    """

    source: str
    fma_per_cycle: tuple[tuple[str, int], ...] = ()
    boost_ghz: float | None = None
    gflops: tuple[tuple[str, float], ...] = ()
    memory_gb_s: float | None = None


@dataclass(frozen=True)
class GpuLimits:
    """Launch limits of a GPU. Sizes in bytes; registers are 32 bits wide."""

    sms: int
    warp_size: int
    max_threads_per_block: int
    max_threads_per_sm: int
    shared_bytes_per_block: int
    shared_bytes_per_sm: int
    registers_per_sm: int
    max_registers_per_thread: int
    l2_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class CpuIdentity:
    """What one CPU and its kernel said about themselves, verbatim, for the tuning log.

    ``machine_cores`` counts the physical cores of the machine whatever the affinity mask of the
    asking process is. ``flags_digest`` covers every reported flag, not only those of
    :attr:`HardwareProfile.features`.
    """

    vendor: str
    model_name: str
    family: str
    model: str
    stepping: str
    microcode: str
    flags_digest: str
    machine_cores: int
    kernel_release: str
    hypervisor: bool


@dataclass(frozen=True)
class HardwareProfile:
    """Hardware that a kernel runs on.

    Parameters
    ----------
    kind
        ``cpu``, ``cuda`` or ``rocm``.
    name
        For people, such as ``AMD EPYC (Zen 4)``.
    arch
        Short key: an LLVM CPU name or feature level (``znver4``), or ``sm_90``, ``gfx906``.
    isa
        Instruction set as ``uname -m`` writes it; empty for GPUs.
    features
        Sorted kernel names of the flags that matter to code generation.
    physical_cores, logical_cores
        Cores and hardware threads this process may run on. A data file describes one core.
    l1d_bytes, l2_bytes
        Per core.
    l3_bytes, l3_instances
        Size of one last-level cache, and how many of them the usable cores have; 0 is none.
    simd_bits, vector_registers
        Width of the widest vector register, and how many of those there are.
    cpu_quota
        CPU time allowed by the container, in cores; None is no limit.
    assumed
        Names of the fields the machine did not report and that hold conservative guesses.
    """

    kind: str
    name: str
    arch: str
    isa: str = ""
    features: tuple[str, ...] = ()
    physical_cores: int = 1
    logical_cores: int = 1
    l1d_bytes: int = 0
    l2_bytes: int = 0
    l3_bytes: int = 0
    l3_instances: int = 1
    simd_bits: int = 0
    vector_registers: int = 0
    cpu_quota: float | None = None
    assumed: tuple[str, ...] = ()
    peaks: Peaks | None = None
    gpu: GpuLimits | None = None
    identity: CpuIdentity | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown kind {self.kind!r}; choose one of {', '.join(KINDS)}")
        if (self.gpu is None) != (self.kind == "cpu"):
            raise ValueError("exactly the profiles of GPUs have GPU limits")
        object.__setattr__(self, "features", tuple(sorted(self.features)))

    @property
    def key(self) -> str:
        """String that is equal only for the same hardware.

        It names the machine, not the moment: the affinity mask, the container's quota, the
        kernel and the microcode are left to :meth:`fingerprint`.
        """
        model = self.identity.model_name if self.identity else self.name
        cores = self.identity.machine_cores if self.identity else self.physical_cores
        if self.gpu is not None:
            cores = self.gpu.sms
        return f"{self.kind}/{self.arch}/{model}/{cores}c/{digest(self.features)}"

    @property
    def usable_threads(self) -> int:
        """Threads worth starting: physical cores, or fewer under a container's quota."""
        if self.cpu_quota is None:
            return self.physical_cores
        return max(1, min(self.physical_cores, int(self.cpu_quota)))

    def fingerprint(self) -> dict[str, Any]:
        """Return what the tuning log keeps of the hardware, as JSON types."""
        identity = dataclasses.asdict(self.identity) if self.identity else {}
        sizes = ("physical_cores", "logical_cores", "l1d_bytes", "l2_bytes", "l3_bytes")
        return {
            "key": self.key,
            **identity,
            **{name: getattr(self, name) for name in sizes},
            "cpu_quota": self.cpu_quota,
        }

    def datasheet_peak_gflops(self, dtype: str, threads: int = 1) -> float | None:
        """Return the datasheet peak in GFLOP/s, two operations per multiply-add.

        Parameters
        ----------
        dtype
            Element type of the multiplied numbers, such as ``float32``.
        threads
            CPU threads, one per core; more than there are cores count as the cores.

        Returns
        -------
        float or None
            None where the rate or the clock is not known.
        """
        if self.peaks is None:
            return None
        if self.kind != "cpu":
            return dict(self.peaks.gflops).get(dtype)
        rate = dict(self.peaks.fma_per_cycle).get(dtype)
        if rate is None or self.peaks.boost_ghz is None:
            return None
        return 2.0 * rate * self.peaks.boost_ghz * min(threads, self.physical_cores)

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict that :meth:`from_json` reads back; empty parts are left out."""
        data = {
            name: value for name, value in _plain(self).items() if value not in (None, [], {}, "")
        }
        if self.peaks is not None:
            rates = {name: dict(getattr(self.peaks, name)) for name in ("fma_per_cycle", "gflops")}
            data["peaks"] = {k: v for k, v in {**data["peaks"], **rates}.items() if v}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HardwareProfile:
        """Rebuild a profile from :meth:`to_json` or a data file; raises TypeError on others."""
        fields = dict(data)
        for name in ("features", "assumed"):
            if name in fields:
                fields[name] = tuple(fields[name])
        if "peaks" in fields:
            peaks = dict(fields["peaks"])
            for name in ("fma_per_cycle", "gflops"):
                peaks[name] = tuple(sorted(peaks.get(name, {}).items()))
            fields["peaks"] = Peaks(**peaks)
        if "gpu" in fields:
            fields["gpu"] = GpuLimits(**fields["gpu"])
        if "identity" in fields:
            fields["identity"] = CpuIdentity(**fields["identity"])
        return cls(**fields)


@functools.cache
def load_profiles() -> Mapping[str, HardwareProfile]:
    """Return the profiles of the data files by file name without its suffix."""
    return {
        path.stem: HardwareProfile.from_json(tomllib.loads(path.read_text("utf-8")))
        for path in sorted(_DATA.glob("*.toml"))
    }


def find_profile(name: str) -> HardwareProfile | None:
    """Return the data file's profile of that file name, or else of that arch where it is unique.

    Several GPUs share an arch (H100 and H200 are both ``sm_90``): ask for them by file name.
    """
    profiles = load_profiles()
    same_arch = [profile for profile in profiles.values() if profile.arch == name]
    return profiles.get(name) or (same_arch[0] if len(same_arch) == 1 else None)


def digest(words: tuple[str, ...]) -> str:
    """Return eight hex digits that depend on the set of words only."""
    return hashlib.sha256(" ".join(sorted(set(words))).encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    """Turn dataclasses into dicts and tuples into lists, recursively."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
