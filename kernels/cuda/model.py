"""A static estimate of a kernel's time from its tiling: prior, pre-filter and default rule.

It is built of what a GPU engineer works out on paper: blocks that fit on an SM, waves of blocks,
and per step of K the largest of four times (arithmetic, instruction issue, shared memory, memory
traffic), with the latency of a load added where nothing hides it. Its constants are rounded from
published micro-benchmarks (Jia et al., arXiv 1804.06826; Luo et al., arXiv 2402.13499). For fp32 on
CUDA cores it has been checked against recorded measurements of a kernel of that kind on two GPUs
(tests/kernels/cuda/test_model_recorded.py: rank correlation about 0.9); for tensor cores there are
none yet. It ranks configs, and its seconds are not results.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import NotApplicable
from autotune.kernels.base import Template

if TYPE_CHECKING:
    from autotune.hw_profiles import GpuLimits, HardwareProfile
    from autotune.workload import Gemm

#: Cycles from a load of global memory to its data: L2 hits, with some misses.
_LOAD_LATENCY = 600.0
#: Cycles to L2 and back, for what is there: sums of slices, counts.
_L2_LATENCY = 300.0
#: Cycles that a barrier costs a block.
_BARRIER = 30.0
#: Bytes that one SM can take from L2 in a cycle, when all of them do.
_L2_BYTES_PER_CYCLE = 32.0
#: Share of the memory's datasheet bandwidth that streaming reaches.
_MEMORY_EFFICIENCY = 0.9
_LAUNCH_SECONDS = 3e-6
#: From the end of a kernel to the start of the next one of a graph.
_NEXT_LAUNCH_SECONDS = 1.5e-6
#: Warp instructions that one SM issues in a cycle, and bytes of one pass through shared memory.
_ISSUE, _PASS_BYTES = 4.0, 128
#: Blocks that one SM holds at most, where it is not 32, and fp32 lanes where they are not 128.
_MOST_BLOCKS = {"sm_75": 16, "sm_86": 16, "sm_87": 16, "sm_89": 24, "sm_120": 24}
#: Share of the tensor cores' rate that mma.sync reaches where there is something better.
_MMA_SYNC_SHARE = {"sm_90": 0.62}
_FP32_LANES = {"sm_70": 64, "sm_75": 64, "sm_80": 64}
#: Cycles in which the load and store units of an SM take the addresses of one warp, where it is not
#: 1: there are 16 units there, and 32 elsewhere.
_ADDRESS_CYCLES = {"sm_75": 2, "sm_86": 2, "sm_87": 2, "sm_89": 2, "sm_120": 2}


@dataclass(frozen=True)
class Work:
    """What one kernel does, per block and step of K.

    Parameters
    ----------
    blocks_m, blocks_n
        Blocks along M and N; those along N come first in launch order. Products of a batch count as
        rows of blocks.
    threads, registers, shared_bytes
        Of a block, a thread and a block.
    steps
        Steps of K, of a block.
    math
        Key of the profile's peaks: what multiplies.
    multiply_adds
        Multiply-adds of a step, padding included.
    instructions
        Warp instructions of a step, all warps together.
    shared_passes
        Passes through shared memory of a step, 128 bytes each, bank conflicts included.
    shared_accesses
        Warp instructions of a step that make them.
    a_bytes, b_bytes
        Bytes of global memory that a step reads.
    c_bytes
        Bytes that a block writes when it is done, and those of a residual that it reads then.
    independent
        Independent multiply-adds that a thread has in flight.
    overlapped
        Whether the loads of later steps are in flight during a step.
    by_mma_sync
        Whether mma.sync does the arithmetic.
    ahead
        Steps whose loads are in flight during a step, where they are overlapped.
    a_sharers, b_sharers
        Blocks of a cluster that one read of A or B from L2 serves.
    most_resident
        Blocks that an SM is given at most, whatever would fit.
    slices
        Parts that K is cut into, with a block each for every tile; see
        :mod:`autotune.kernels.cuda.split`.
    sum_bytes
        Bytes of the sums of a block, which go through L2 where K is cut.
    batch, shared
        Products of a batch; ``a`` or ``b`` if all of them read the same one.
    copies
        Bytes that each launch before this one moves; see :mod:`autotune.kernels.cuda.turn`.
    """

    blocks_m: int
    blocks_n: int
    threads: int
    registers: int
    shared_bytes: int
    steps: int
    math: str
    multiply_adds: int
    instructions: float
    shared_passes: float
    a_bytes: int
    b_bytes: int
    c_bytes: int
    independent: int
    overlapped: bool
    shared_accesses: float = 0.0
    by_mma_sync: bool = False
    ahead: int = 1
    a_sharers: int = 1
    b_sharers: int = 1
    most_resident: int = 32
    slices: int = 1
    sum_bytes: int = 0
    copies: tuple[int, ...] = ()
    batch: int = 1
    shared: str = ""

    @property
    def blocks(self) -> int:
        """Blocks of the launch."""
        return self.blocks_m * self.blocks_n * self.slices


class CudaTemplate(Template):
    """A template whose kernels the static model can judge."""

    kind = "cuda"

    @abstractmethod
    def work(self, workload: Gemm, config: Mapping[str, Any]) -> Work:
        """Return what the kernel of a config does; cheap, and without importing TVM."""


def check_peaks(profile: HardwareProfile) -> None:
    """Raise NotApplicable for a device whose peaks nobody states: its defaults are estimated."""
    if profile.peaks is None or profile.peaks.memory_gb_s is None:
        raise NotApplicable(
            f"the peaks of {profile.name} are not known, and templates choose their configs by"
            " them: there is no data file of it, and its driver states no clocks"
        )


def occupancy(gpu: GpuLimits, arch: str, threads: int, registers: int, shared_bytes: int) -> int:
    """Return how many such blocks one SM holds at a time; 0 if not even one fits.

    Registers are given out to warps in units of 256, and to blocks in whole warps of each of the
    four partitions; from sm_80 on, each block takes 1 KiB of shared memory for the system (CUDA
    Occupancy Calculator).
    """
    warps = -(-threads // gpu.warp_size)
    per_warp = -(-registers * gpu.warp_size // 256) * 256
    by_registers = gpu.registers_per_sm // per_warp // 4 * 4 // warps
    reserved = 1024 if _generation(arch) >= 80 else 0
    granted = -(-(shared_bytes + reserved) // 128) * 128
    by_shared = gpu.shared_bytes_per_sm // granted if granted else by_registers
    by_threads = gpu.max_threads_per_sm // (warps * gpu.warp_size)
    return min(by_registers, by_shared, by_threads, _MOST_BLOCKS.get(arch, 32))


def _generation(arch: str) -> int:
    return int(arch.removeprefix("sm_").rstrip("a") or 0)


def estimate(work: Work, profile: HardwareProfile) -> float:
    """Return the estimated seconds of one call; ``inf`` if a block does not fit on an SM.

    Raises
    ------
    ValueError
        If the profile is not a GPU's with known peaks.
    """
    gpu = profile.gpu
    if gpu is None or profile.peaks is None or profile.peaks.memory_gb_s is None:
        raise ValueError(f"the static model needs the peaks of {profile.name}")
    fitting = occupancy(gpu, profile.arch, work.threads, work.registers, work.shared_bytes)
    resident = min(work.most_resident, fitting)
    if resident == 0:
        return math.inf
    hz = clock_hz(profile)
    waves, rest = divmod(work.blocks, gpu.sms * resident)
    cycles = waves * _wave_cycles(work, profile, resident)
    if rest:
        # The last wave spreads over the SMs: fewer blocks share one.
        cycles += _wave_cycles(work, profile, -(-rest // gpu.sms))
    memory = _memory_bytes(work, gpu, resident) / profile.peaks.memory_gb_s / 1e9
    product = max(cycles / hz, memory / _MEMORY_EFFICIENCY)
    return product + _LAUNCH_SECONDS + _copy_seconds(work, profile, hz)


def _copy_seconds(work: Work, profile: HardwareProfile, hz: float) -> float:
    """Return the seconds of the launches that come first, each as fast as its bytes go through."""
    assert profile.gpu is not None and profile.peaks is not None
    memory = (profile.peaks.memory_gb_s or 0.0) * 1e9 * _MEMORY_EFFICIENCY
    cache = profile.gpu.sms * _L2_BYTES_PER_CYCLE * hz
    latency = 2 * _LOAD_LATENCY / hz + _NEXT_LAUNCH_SECONDS
    return sum(
        moved / (cache if moved <= profile.gpu.l2_bytes else memory) + latency
        for moved in work.copies
    )


def clock_hz(profile: HardwareProfile) -> float:
    """Return the clock that the datasheet's fp32 peak implies."""
    assert profile.gpu is not None
    lanes = _FP32_LANES.get(profile.arch, 128)
    peak = profile.datasheet_peak_gflops("float32") or 0.0
    return peak * 1e9 / (2 * lanes * profile.gpu.sms)


def _wave_cycles(work: Work, profile: HardwareProfile, resident: int) -> float:
    """Return the cycles in which one SM finishes ``resident`` blocks side by side."""
    assert profile.gpu is not None
    peak = profile.datasheet_peak_gflops(work.math) or 0.0
    if work.by_mma_sync:
        peak *= _MMA_SYNC_SHARE.get(profile.arch, 1.0)
    fma_per_cycle = peak * 1e9 / 2 / profile.gpu.sms / clock_hz(profile)
    warps = resident * -(-work.threads // profile.gpu.warp_size)
    # Four schedulers with a warp each, and four cycles of latency to cover.
    busy = min(1.0, warps / 4) * min(1.0, warps / 4 * work.independent / 4)
    multiply = work.multiply_adds / fma_per_cycle / busy
    addresses = work.shared_accesses * _ADDRESS_CYCLES.get(profile.arch, 1)
    shared = max(work.shared_passes, addresses)
    issue = work.instructions / _ISSUE / min(1.0, warps / 4)
    # Tensor cores work while warps read the next fragments. On CUDA cores the two hardly overlap:
    # the recorded tables of an fp32 kernel on two GPUs fit their sum, within a quarter.
    compute = max(multiply + shared if work.math == "float32" else max(multiply, shared), issue)
    loaded = work.a_bytes / work.a_sharers + work.b_bytes / work.b_sharers
    traffic = loaded / _L2_BYTES_PER_CYCLE
    if work.overlapped:
        # The further ahead loads are, the less often one is waited for.
        alone = max(compute, _LOAD_LATENCY / work.ahead) + _BARRIER / work.ahead
    else:
        alone = compute + _LOAD_LATENCY + 2 * _BARRIER
    step = max(resident * compute, resident * traffic, alone)
    ends = 2 * _LOAD_LATENCY + resident * work.c_bytes / _L2_BYTES_PER_CYCLE
    return work.steps * step + ends + _gathering_cycles(work, resident)


def _gathering_cycles(work: Work, resident: int) -> float:
    """Return what it costs to add up slices of K: their blocks store, count, and one of them reads.

    The fences and the count are round trips to L2, and so is each slice that is read.
    """
    if work.slices == 1:
        return 0.0
    through = work.sum_bytes / _L2_BYTES_PER_CYCLE
    return resident * through + 3 * _L2_LATENCY + work.slices * (through + _L2_LATENCY)


def _memory_bytes(work: Work, gpu: GpuLimits, resident: int) -> float:
    """Return the bytes that cross the memory bus: once a wave what its blocks share.

    Calls are timed one after the other: what fits L2 is there already, and stays.
    """
    at_once = min(work.blocks, gpu.sms * resident)
    columns = min(work.blocks_n, at_once)
    rows = min(work.blocks_m, -(-at_once // work.blocks_n))
    waves = work.blocks / at_once
    steps = work.steps * work.slices
    written = work.blocks_m * work.blocks_n * work.c_bytes
    # Rows of blocks that read the same A; times that columns of B are different ones.
    same_a = work.batch if work.shared == "a" else 1
    others_b = 1 if work.shared == "b" else work.batch
    read: float = steps * (
        work.blocks_m / same_a * work.a_bytes + work.blocks_n * others_b * work.b_bytes
    )
    if read + written <= gpu.l2_bytes:
        return 0.0
    if read > gpu.l2_bytes:
        products = min(others_b, -(-rows * work.batch // work.blocks_m))
        shared = (rows * work.a_bytes + products * columns * work.b_bytes) * work.steps
        read = max(read, waves * shared)
    return read + written
