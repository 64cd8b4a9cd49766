"""The process that workers are forked from: ``python -m autotune.measure.forker FD``.

It has imported TVM and all templates, and set up LLVM, which takes a second of a core; a fork of it
takes some milliseconds and shares the memory. It never runs a candidate, so the next worker is as
clean as the first. ``FD`` is a socket on which it is told what to fork
(:mod:`autotune.measure.forking`).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from autotune.measure.protocol import isolate

#: Requests are a module's name and some environment variables.
_MOST_BYTES = 1 << 16


def main() -> None:
    """Serve requests until the parent closes the socket."""
    wire = socket.socket(fileno=int(sys.argv[1]))
    wire.set_inheritable(False)
    # TVM imports torch if it can: seconds of start-up, and a second thread pool beside the timings.
    sys.modules["torch"] = None  # type: ignore[assignment]
    _load()
    isolate()
    wire.send(b'{"ready": true}')
    while True:
        data, descriptors, *_ = socket.recv_fds(wire, _MOST_BYTES, 3)
        if not data:
            return
        request = json.loads(data)
        if "reap" in request:
            wire.send(json.dumps({"code": _reap(request["reap"])}).encode())
            continue
        forker = os.getpid()
        if os.fork() == 0:
            _become(request["module"], request["env"], descriptors, wire, forker)
        for descriptor in descriptors:
            os.close(descriptor)


def _load() -> None:
    """Do once what every worker would do first."""
    import tvm
    from tvm import te

    import autotune.measure.builder
    import autotune.measure.worker  # noqa: F401
    from autotune.kernels.base import load_templates

    load_templates([])
    # The first compilation of a process sets up LLVM.
    x = te.placeholder((64,), "float32", name="x")
    y = te.compute((64,), lambda i: x[i] + 1.0, name="y")
    library = tvm.compile(te.create_prim_func([x, y]), target=tvm.target.Target("llvm"))
    library["main"]
    # What is loaded by now stays: collectors need not look at it, nor copy its pages by that.
    gc.collect()
    gc.freeze()


def _reap(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:  # forked by the process before this one, with which it died
        return -signal.SIGKILL
    return os.waitstatus_to_exitcode(status)


def _become(
    module: str,
    env: Mapping[str, str],
    descriptors: Sequence[int],
    wire: socket.socket,
    forker: int,
) -> NoReturn:
    """Turn this fork into a worker: a session of its own, its pipes, its environment."""
    code = 1
    try:
        os.setsid()
        isolate()
        if os.getppid() != forker:  # it died before the call above
            os._exit(1)
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        # Told by the fork itself, which can be killed as a group only from here on. Then nothing
        # that a candidate writes can reach the socket.
        wire.send(json.dumps({"pid": os.getpid()}).encode())
        wire.close()
        os.environ.update(env)
        _name(f"tune-{module.rpartition('.')[2]}")
        importlib.import_module(module).main()
        code = 0
    except SystemExit as end:
        code = _exit_code(end.code)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _name(name: str) -> None:
    """Be shown under this name, as the command line is the forker's."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(name[:15])


def _exit_code(wanted: Any) -> int:
    """Return what the interpreter would end with."""
    if wanted is None or isinstance(wanted, int):
        return wanted or 0
    print(wanted, file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
