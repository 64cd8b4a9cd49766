"""Kernels for arrays wherever they start.

TVM lets generated code assume that every argument starts on a cache line, and never checks it: a
NumPy array, or a slice of a tensor, ends the process then. Kernels that are measured keep the
assumption. Kernels that are handed out are compiled without: on x86-64 the only difference is
``vmovups`` in the place of ``vmovaps``, which costs nothing where the address is a multiple of 64
all the same, and a few percent where it is not.
"""

from __future__ import annotations

import json
import re
from importlib import metadata
from typing import Any

from autotune.errors import AutotuneError

#: From this version of apache-tvm-ffi on, the process dies when TVM 0.27 writes a module.
_BROKEN_FFI = (0, 1, 15)


def for_any_alignment(module: Any) -> Any:
    """Return an IRModule whose functions assume no more than their arguments' element types.

    TVM cannot change the alignment of a buffer, so this goes through its JSON form. Only buffers
    that are parameters are changed.
    """
    import tvm

    check_ffi()
    graph = json.loads(tvm.ir.save_json(module))
    nodes = graph["nodes"]
    for node in nodes:
        if node["type"] == "tirx.PrimFunc":
            for parameter in nodes[node["data"]["params"]]["data"]:
                kind = nodes[nodes[parameter]["data"]["ty"]]
                if kind["type"] == "tirx.BufferType":
                    kind["data"]["data_alignment"] = 1
    return tvm.ir.load_json(json.dumps(graph))


def check_ffi() -> None:
    """Refuse a version of TVM's interface that would end the process, without a word.

    pip keeps it out; a later ``pip install -U apache-tvm-ffi`` does not.

    Raises
    ------
    AutotuneError
        If that is the version here.
    """
    version = metadata.version("apache-tvm-ffi")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:3]) >= _BROKEN_FFI:
        raise AutotuneError(
            f"apache-tvm-ffi {version} ends the process when TVM writes a module down; pip install"
            " 'apache-tvm-ffi>=0.1.14.post0,<0.1.15'"
        )
