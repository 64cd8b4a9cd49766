"""The worker that times vendor libraries through torch: ``python -m autotune.measure.vendor``.

A process of its own: on two threads, torch's pool and TVM's in one process were seen to slow each
other down by a factor of three, because both spin.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from autotune.measure.inductor import inductor_call
from autotune.measure.libraries import (
    INDUCTOR,
    LIBRARIES,
    activation_function,
    onednn_call,
    prepacked_call,
)
from autotune.measure.protocol import MAX_REPEATS, MIN_REPEAT_SECONDS, Channel, isolate

#: A product that takes this long at such a rate has no vendor code and is timed by its first call
#: alone: fp16 on a CPU without fp16 arithmetic runs at about 1 GFLOP/s in torch.
_SLOW_SECONDS, _SLOW_FLOPS = 1.0, 10e9


class VendorWorker:
    """One workload on the vendor libraries."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def setup(
        self,
        workload: Mapping[str, Any],
        problem: str,
        threads: int,
        flush_bytes: int = 0,
        device: str = "cpu",
    ) -> dict[str, Any]:
        """Read the inputs, and try the libraries that are always compared with.

        With ``flush_bytes``, caches are emptied before each timed call as the kernel worker does.
        ``device`` is torch's name of it; torch keeps fp32 products out of tf32 by itself.
        """
        import torch

        from autotune.kernels.verify import load_problem
        from autotune.workload import Gemm

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.workload = Gemm.from_json(workload)
        loaded = load_problem(problem, self.workload)
        tensors = [torch_tensor(array) for array in loaded.inputs]
        self.on_gpu = device != "cpu"
        if self.on_gpu:
            if not torch.cuda.is_available():
                raise RuntimeError("this torch finds no CUDA device; install its CUDA build")
            torch.cuda.set_device(device)
            tensors = [tensor.to(device) for tensor in tensors]
        self.flush = torch.zeros(flush_bytes // 4, device=device) if flush_bytes else None
        self.tensors, self.reference = tensors, loaded.reference
        self.calls: dict[str, Callable[[], Any]] = {}
        self.failures: dict[str, str] = {}
        #: Seconds of products so slow that they are not called again.
        self.slow: dict[str, float] = {}
        for library in LIBRARIES:
            self._prepare(library)
        return {}

    def _prepare(self, library: str) -> None:
        """Call a library once; it can be timed if its output agrees with float64."""
        import torch

        from autotune.kernels.verify import mismatch

        try:
            call = _MAKERS[library](self.workload, self.tensors)
            start = time.perf_counter()
            output = call()
            first = time.perf_counter() - start
            exact = output.to(torch.float64).cpu().numpy()
        except Exception as error:  # whatever a library says to what it does not have
            reason = str(error).strip().splitlines() or [type(error).__name__]
            self.failures[library] = f"{library} cannot compute this: {reason[0]}"
            return
        if wrong := mismatch(self.workload, exact, self.reference):
            self.failures[library] = f"{library} disagrees with float64: {wrong}"
            return
        self.calls[library] = call
        # On a GPU the first call loads the library; that of a compiler compiles.
        slow = first > max(_SLOW_SECONDS, self.workload.flops / _SLOW_FLOPS)
        if slow and not self.on_gpu and library in LIBRARIES:
            self.slow[library] = first

    def time(self, seconds: float, library: str) -> dict[str, Any]:
        """Return seconds per call, one entry per repeat, as the kernel worker does."""
        known = library in self.calls or library in self.failures
        if library == INDUCTOR and not known:
            self.channel.phase("compile")
            self._prepare(library)
        if library not in self.calls:
            return {"failure": self.failures.get(library, f"unknown library {library!r}")}
        if library in self.slow:
            return {"costs": [self.slow[library]]}
        self.call = self.calls[library]
        self.channel.phase("run")
        self._repeat(1)
        estimate = self._repeat(1)
        cold = self.flush is not None
        number = 1 if cold else max(1, round(MIN_REPEAT_SECONDS / estimate))
        repeats = min(max(int(seconds / (number * estimate)), 1), MAX_REPEATS)
        if number == 1:
            return {"costs": [estimate] + [self._repeat(1) for _ in range(repeats - 1)]}
        return {"costs": [self._repeat(number) for _ in range(repeats)]}

    def _repeat(self, number: int) -> float:
        call = self.call
        if self.flush is not None:
            self.flush.add_(1.0)
        if self.on_gpu:
            return _device_seconds(call, number)
        start = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - start) / number


def torch_call(workload: Any, tensors: list[Any]) -> Callable[[], Any]:
    """Return what a user of torch gets: ``matmul``, or with a packed B the packed product."""
    return (prepacked_call if workload.prepacked else vendor_call)(workload, tensors)


def torch_tensor(array: Any) -> Any:
    """Return a copy of a NumPy array as a tensor, bf16 and fp8 included.

    A copy, because torch aligns to cache lines, as TVM does for our kernels, and NumPy to 16 bytes:
    on such memory oneDNN's bf16 product on AMX was seen to take twice as long, and its fp32 product
    of 128 x 3072 x 768 on a Zen 4 a quarter longer.
    """
    import torch

    if array.dtype.name in ("bfloat16", "float8_e4m3fn"):  # bits that NumPy does not know
        bits = torch.from_numpy(array.view(f"i{array.dtype.itemsize}"))
        return bits.view(getattr(torch, array.dtype.name)).clone()
    return torch.from_numpy(array).clone()


def _device_seconds(call: Callable[[], Any], number: int) -> float:
    """Return the seconds per call on the GPU, by CUDA events."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(number):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / number


def vendor_call(workload: Any, tensors: list[Any]) -> Callable[[], Any]:
    """Return a function without arguments that computes the workload into a preallocated tensor."""
    import torch

    a, b, *addends = tensors
    if workload.layout[0] == "t":
        a = a.mT
    if workload.layout[1] == "t":
        b = b.mT
    dtype = getattr(torch, workload.out_dtype)
    out = torch.empty(workload.c_shape, dtype=dtype, device=a.device)
    if workload.dtype == "int8":
        return _int8_call(workload, a, b, addends, out)
    if workload.dtype == "float8_e4m3fn":
        return _fp8_call(workload, a, b, addends)
    # torch keeps float32 out of tf32 by itself; here it is what is asked for.
    torch.backends.cuda.matmul.allow_tf32 = workload.dtype == "tfloat32"
    if workload.dtype == "tfloat32" and a.device.type != "cuda":
        raise TypeError("there is no tf32 on a CPU")
    native = workload.dtype if workload.dtype != "tfloat32" else "float32"
    if workload.out_dtype != native:
        raise TypeError(f"matmul of {workload.dtype} returns {workload.dtype} only")
    if workload.epilogue == "none" and workload.scale == 1:
        return lambda: torch.matmul(a, b, out=out)
    product = torch.addmm if workload.batch == 1 else torch.baddbmm
    if workload.shared == "a":
        a = a.expand(workload.batch, -1, -1)
    if workload.shared == "b":
        b = b.expand(workload.batch, -1, -1)
    activation = activation_function(workload.activation)
    # The first addend and the factor come with the product; with beta = 0 there is no addend.
    first, beta = (addends[0], 1) if addends else (out, 0)
    rest = addends[1:]

    def call() -> Any:
        result = product(first, a, b, beta=beta, alpha=workload.scale, out=out)
        for addend in rest:
            result.add_(addend)
        return activation(result)

    return call


def _fp8_call(workload: Any, a: Any, b: Any, addends: list[Any]) -> Callable[[], Any]:
    """Return the fp8 product, which torch has for K-major operands on some devices.

    Its factors are those of the operands; one of them is the workload's.
    """
    import torch

    one, scale = (torch.tensor(x, device=a.device) for x in (1.0, workload.scale))
    dtype = getattr(torch, workload.out_dtype)
    activation = activation_function(workload.activation)

    def call() -> Any:
        result = torch._scaled_mm(a, b, scale_a=scale, scale_b=one, out_dtype=dtype)
        for addend in addends:
            result.add_(addend)
        return activation(result)

    return call


def _int8_call(workload: Any, a: Any, b: Any, addends: list[Any], out: Any) -> Callable[[], Any]:
    """Return the int8 product with int32 sums; torch has it for two matrices and nothing else."""
    import torch

    def call() -> Any:
        result = torch._int_mm(a, b, out=out)
        for addend in addends:
            result.add_(addend)
        return torch.relu_(result) if workload.activation == "relu" else result

    if workload.batch > 1:
        raise TypeError("torch multiplies int8 matrices one by one only")
    if workload.activation not in ("", "relu"):
        raise TypeError(f"torch has no {workload.activation} of integers")
    return call


_MAKERS: dict[str, Callable[[Any, list[Any]], Callable[[], Any]]] = {
    "torch": torch_call,
    "onednn": onednn_call,
    INDUCTOR: inductor_call,
}


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    channel = Channel()
    import torch  # noqa: F401

    isolate()
    worker = VendorWorker(channel)
    channel.serve({"setup": worker.setup, "time": worker.time})


if __name__ == "__main__":
    main()
