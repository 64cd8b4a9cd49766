"""The part of the CUDA driver's C interface that detecting and running kernels takes, by ctypes.

Nothing but ``libcuda`` itself is needed: no toolkit, no runtime library, no package. Names and
values are those of ``cuda.h``; only functions that every driver since CUDA 11 exports are used, and
for kernels with tensor maps or clusters (Hopper) two that came with CUDA 12.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

#: What the driver is called where it is installed.
LIBRARY = "libcuda.so.1"

#: Values of ``CUdevice_attribute`` by the name used here.
ATTRIBUTES = {
    "max_threads_per_block": 1,
    "warp_size": 10,
    "clock_khz": 13,
    "sms": 16,
    "memory_clock_khz": 36,
    "memory_bus_bits": 37,
    "l2_bytes": 38,
    "max_threads_per_sm": 39,
    "compute_major": 75,
    "compute_minor": 76,
    "shared_bytes_per_sm": 81,
    "registers_per_sm": 82,
    "shared_bytes_per_block": 97,  # with opt-in
}
_FUNC_MAX_DYNAMIC_SHARED = 8
#: Errors after which a context answers nothing but the same error: its process has to end.
_STICKY = frozenset({214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 999})
_CAPTURE_THREAD_LOCAL = 1
_ATTRIBUTE_CLUSTER = 4
#: Size and alignment of a ``CUtensorMap``.
_MAP_BYTES = 128


class CudaError(Exception):
    """A call of the driver failed.

    Attributes
    ----------
    code
        The ``CUresult``.
    sticky
        Whether the context is lost with it.
    """

    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(f"{call}: {text} ({code})")
        self.code = code
        self.sticky = code in _STICKY


class DriverMissing(Exception):
    """There is no CUDA driver on this machine, or it cannot be loaded."""


class Driver:
    """The driver library; every method raises :class:`CudaError` when the driver does not succeed.

    Parameters
    ----------
    library
        Name or path of the shared library.

    Raises
    ------
    DriverMissing
        If it cannot be loaded.
    """

    def __init__(self, library: str = LIBRARY) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise DriverMissing(f"cannot load the CUDA driver {library}: {error}") from None
        self.call("cuInit", c_uint(0))

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the driver; raises CudaError unless it returns CUDA_SUCCESS."""
        code = self._function(name)(*arguments)
        if code:
            raise CudaError(name, code, self._describe(code))

    def _function(self, name: str) -> Callable[..., int]:
        try:
            function = self._library[name]
        except AttributeError:
            raise DriverMissing(f"the CUDA driver has no {name}: it is too old") from None
        function.restype = c_int
        return function

    def _describe(self, code: int) -> str:
        texts = []
        for query in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            if self._function(query)(c_int(code), byref(text)) == 0 and text.value:
                texts.append(text.value.decode("utf-8", "replace"))
        return ", ".join(texts) or "unknown error"

    # -- devices --------------------------------------------------------------------------------

    def device_count(self) -> int:
        """Return how many devices this process may use."""
        count = c_int()
        self.call("cuDeviceGetCount", byref(count))
        return count.value

    def device_name(self, device: int) -> str:
        """Return the device's name for people, such as ``NVIDIA H200``."""
        text = ctypes.create_string_buffer(256)
        self.call("cuDeviceGetName", text, c_int(256), self._handle(device))
        return text.value.decode("utf-8", "replace")

    def attribute(self, device: int, name: str) -> int:
        """Return one of :data:`ATTRIBUTES`."""
        value = c_int()
        code = c_int(ATTRIBUTES[name])
        self.call("cuDeviceGetAttribute", byref(value), code, self._handle(device))
        return value.value

    def total_memory(self, device: int) -> int:
        """Return the device's memory in bytes."""
        size = c_size_t()
        self.call("cuDeviceTotalMem_v2", byref(size), self._handle(device))
        return size.value

    def _handle(self, device: int) -> c_int:
        handle = c_int()
        self.call("cuDeviceGet", byref(handle), c_int(device))
        return handle

    def open(self, device: int) -> None:
        """Make the device's primary context the current one of this thread."""
        context = c_void_p()
        self.call("cuDevicePrimaryCtxRetain", byref(context), self._handle(device))
        self.call("cuCtxSetCurrent", context)

    # -- memory ---------------------------------------------------------------------------------

    def allocate(self, size: int) -> int:
        """Return the address of ``size`` bytes of device memory."""
        address = c_void_p()
        self.call("cuMemAlloc_v2", byref(address), c_size_t(size))
        return address.value or 0

    def free(self, address: int) -> None:
        """Give memory back; harmless after a sticky error."""
        with contextlib.suppress(CudaError):
            self.call("cuMemFree_v2", c_void_p(address))

    def to_device(self, address: int, array: Any) -> None:
        """Copy a C-contiguous numpy array to device memory."""
        self.call(
            "cuMemcpyHtoD_v2",
            c_void_p(address),
            c_void_p(array.ctypes.data),
            c_size_t(array.nbytes),
        )

    def to_host(self, array: Any, address: int) -> None:
        """Fill a C-contiguous numpy array from device memory."""
        self.call(
            "cuMemcpyDtoH_v2",
            c_void_p(array.ctypes.data),
            c_void_p(address),
            c_size_t(array.nbytes),
        )

    def fill(self, address: int, byte: int, size: int, stream: Stream) -> None:
        """Set ``size`` bytes, in the order of the stream."""
        self.call(
            "cuMemsetD8Async", c_void_p(address), ctypes.c_ubyte(byte), c_size_t(size), stream
        )

    def tensor_map(
        self,
        address: int,
        data_type: int,
        extents: Sequence[int],
        strides: Sequence[int],
        box: Sequence[int],
        swizzle: int,
        promotion: int,
    ) -> TensorMapValue:
        """Return the map through which TMA reaches an array, zeros beyond its ends.

        Parameters
        ----------
        address
            Of device memory, a multiple of 16.
        data_type, swizzle, promotion
            ``CUtensorMapDataType``, ``CUtensorMapSwizzle``, ``CUtensorMapL2promotion``.
        extents, strides, box
            In elements, contiguous dimension first; bytes, without the first; elements.
        """
        value = TensorMapValue()
        rank = len(extents)
        self.call(
            "cuTensorMapEncodeTiled",
            c_void_p(value.address),
            c_int(data_type),
            c_uint(rank),
            c_void_p(address),
            (c_uint64 * rank)(*extents),
            (c_uint64 * len(strides))(*strides),
            (c_uint * rank)(*box),
            (c_uint * rank)(*[1] * rank),
            c_int(0),
            c_int(swizzle),
            c_int(promotion),
            c_int(0),
        )
        return value

    # -- kernels --------------------------------------------------------------------------------

    def load(self, image: bytes) -> Module:
        """Load a cubin."""
        module = c_void_p()
        self.call("cuModuleLoadData", byref(module), c_char_p(image))
        return Module(self, module)

    def stream(self) -> Stream:
        """Return a new stream that does not wait for the default one."""
        stream = c_void_p()
        self.call("cuStreamCreate", byref(stream), c_uint(1))
        return stream

    def synchronize(self, stream: Stream) -> None:
        """Wait until a stream has done everything; an error of a kernel shows here."""
        self.call("cuStreamSynchronize", stream)

    def event(self) -> c_void_p:
        """Return a new event that can be timed."""
        event = c_void_p()
        self.call("cuEventCreate", byref(event), c_uint(0))
        return event

    def record(self, event: c_void_p, stream: Stream) -> None:
        """Record an event in a stream."""
        self.call("cuEventRecord", event, stream)

    def elapsed(self, start: c_void_p, end: c_void_p) -> float:
        """Return the seconds between two events that have happened."""
        milliseconds = c_float()
        self.call("cuEventElapsedTime", byref(milliseconds), start, end)
        return milliseconds.value / 1e3

    def capture(self, stream: Stream, launches: Callable[[], None]) -> Graph:
        """Record what ``launches`` puts into the stream as a graph, without running it."""
        self.call("cuStreamBeginCapture_v2", stream, c_int(_CAPTURE_THREAD_LOCAL))
        graph, executable = c_void_p(), c_void_p()
        try:
            launches()
        finally:
            self.call("cuStreamEndCapture", stream, byref(graph))
        self.call("cuGraphInstantiateWithFlags", byref(executable), graph, ctypes.c_ulonglong(0))
        self.call("cuGraphDestroy", graph)
        return Graph(self, executable)


#: An opaque handle of the driver.
Stream = c_void_p


class TensorMapValue:
    """The 128 bytes of a ``CUtensorMap``, aligned as the driver wants them."""

    def __init__(self) -> None:
        self._memory = ctypes.create_string_buffer(2 * _MAP_BYTES)
        start = ctypes.addressof(self._memory)
        self.address = -(-start // _MAP_BYTES) * _MAP_BYTES


class _Attribute(ctypes.Structure):
    """``CUlaunchAttribute`` for clusters: an enum, padding to 8 bytes, a union of 64 bytes."""

    _fields_ = (
        ("id", c_int),
        ("padding", ctypes.c_char * 4),
        ("cluster", c_uint * 3),
        ("rest", ctypes.c_char * 52),
    )


class _LaunchConfig(ctypes.Structure):
    """``CUlaunchConfig``."""

    _fields_ = (
        ("grid", c_uint * 3),
        ("block", c_uint * 3),
        ("shared_bytes", c_uint),
        ("stream", c_void_p),
        ("attributes", c_void_p),
        ("attribute_count", c_uint),
    )


class Graph:
    """An instantiated graph of launches."""

    def __init__(self, driver: Driver, executable: c_void_p) -> None:
        self._driver, self._executable = driver, executable

    def launch(self, stream: Stream) -> None:
        """Run all of it in the order of the stream."""
        self._driver.call("cuGraphLaunch", self._executable, stream)

    def close(self) -> None:
        """Destroy it."""
        self._driver.call("cuGraphExecDestroy", self._executable)


class Module:
    """A loaded cubin."""

    def __init__(self, driver: Driver, module: c_void_p) -> None:
        self._driver, self._module = driver, module

    def function(self, name: str, shared_bytes: int) -> Function:
        """Return one of its kernels, ready for its dynamic shared memory."""
        function = c_void_p()
        name_bytes = c_char_p(name.encode())
        self._driver.call("cuModuleGetFunction", byref(function), self._module, name_bytes)
        limit = c_int(_FUNC_MAX_DYNAMIC_SHARED)
        self._driver.call("cuFuncSetAttribute", function, limit, c_int(shared_bytes))
        return Function(self._driver, function)

    def unload(self) -> None:
        """Give its memory back; harmless after a sticky error."""
        with contextlib.suppress(CudaError):
            self._driver.call("cuModuleUnload", self._module)


class Function:
    """A kernel of a loaded module."""

    def __init__(self, driver: Driver, function: c_void_p) -> None:
        self._driver, self._function = driver, function

    def launch(
        self,
        grid: Sequence[int],
        block: Sequence[int],
        shared_bytes: int,
        arguments: Sequence[int | TensorMapValue],
        stream: Stream,
        cluster: int = 1,
    ) -> None:
        """Launch with pointers and tensor maps, in clusters of that many blocks along x."""
        kept, addresses = [], []
        for argument in arguments:
            if isinstance(argument, TensorMapValue):
                addresses.append(c_void_p(argument.address))
            else:
                kept.append(c_void_p(argument))
                addresses.append(ctypes.cast(byref(kept[-1]), c_void_p))
        values = ctypes.cast((c_void_p * len(addresses))(*addresses), POINTER(c_void_p))
        if cluster == 1:
            extents = (c_uint(extent) for extent in (*grid, *block))
            self._driver.call(
                "cuLaunchKernel",
                self._function,
                *extents,
                c_uint(shared_bytes),
                stream,
                values,
                None,
            )
            return
        attribute = _Attribute(id=_ATTRIBUTE_CLUSTER, cluster=(c_uint * 3)(cluster, 1, 1))
        config = _LaunchConfig(
            grid=(c_uint * 3)(*grid),
            block=(c_uint * 3)(*block),
            shared_bytes=shared_bytes,
            stream=stream,
            attributes=ctypes.cast(byref(attribute), c_void_p),
            attribute_count=1,
        )
        self._driver.call("cuLaunchKernelEx", byref(config), self._function, values, None)
