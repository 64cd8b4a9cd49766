"""The C header of exported CUDA kernels: tables of their launches, and functions that use them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.kernels.cuda.tensor_map import TensorMap

if TYPE_CHECKING:
    from autotune.deploy.cubins import GpuKernel
    from autotune.kernels.cuda.source import Launch


def cubins_header(kernels: Sequence[GpuKernel], device: str, arch: str) -> str:
    """Return the header that declares kernels made for a device of that name and architecture."""
    launches = [launch for kernel in kernels for launch in kernel.launches]
    maps = any(isinstance(p, TensorMap) for launch in launches for p in launch.parameters)
    clusters = any(launch.cluster > 1 for launch in launches)
    needed = ["#define AUTOTUNE_MAPS"] * maps + ["#define AUTOTUNE_CLUSTERS"] * clusters
    head = f"""\
/* Kernels for {device} ({arch}), which autotune made; how to call them by the CUDA driver (-lcuda):
 *
 *     struct autotune_loaded loaded;
 *     autotune_load(&loaded, &{kernels[0].symbol}, "{kernels[0].file}", stream);
 *     CUdeviceptr arguments[] = {{{", ".join(x.name for x in kernels[0].arguments)}}};
 *     autotune_call(&loaded, arguments, stream);
 *     autotune_unload(&loaded);
 *
 * Arrays are row-major and contiguous. Functions return what the driver returns. */
#ifndef AUTOTUNE_CUBINS_H
#define AUTOTUNE_CUBINS_H

#include <cuda.h>
#include <stdint.h>
#include <string.h>
"""
    common = Path(__file__).with_name("launch.h").read_text("utf-8")
    tables = [_table(kernel) for kernel in kernels]
    return "\n".join([head, *needed, common, *tables, "#endif", ""])


def _table(kernel: GpuKernel) -> str:
    described = [
        f"{x.name}: {' x '.join(map(str, x.shape))} of {x.dtype}" for x in kernel.arguments
    ]
    comment = "\n * ".join([kernel.comment, *described]).replace("*/", "* /")
    lines = [f"/* {comment} */"]
    rows = []
    for launch in kernel.launches:
        parameters = []
        for number, parameter in enumerate(launch.parameters):
            if isinstance(parameter, TensorMap):
                name = f"{kernel.symbol}_{launch.name}_map{number}"
                lines.append(_map(name, parameter))
                parameters.append(f"{{{parameter.argument}, &{name}}}")
            else:
                parameters.append(f"{{{parameter}, NULL}}")
        rows.append(_launch(launch, parameters))
    sizes = [x.size for x in kernel.arguments]
    lines += [
        f"static const struct autotune_kernel {kernel.symbol} = {{",
        f'  "{kernel.symbol}", "{kernel.file}",',
        f"  {len(sizes)}, {_list(sizes)},",
        f"  {len(kernel.scratch)}, {_list(kernel.scratch)},",
        f"  {len(rows)}, {{",
        *rows,
        "  }",
        "};",
        "",
    ]
    return "\n".join(lines)


def _map(name: str, m: TensorMap) -> str:
    fields = [m.data_type, len(m.extents), *map(_list, (m.extents, m.strides, m.box))]
    values = ", ".join(map(str, [*fields, m.swizzle, m.promotion]))
    return f"static const struct autotune_map {name} = {{{values}}};"


def _launch(launch: Launch, parameters: Sequence[str]) -> str:
    numbers = f"{_list(launch.grid)}, {_list(launch.block)}, {launch.shared_bytes}u"
    return (
        f'    {{"{launch.name}", {numbers}, {launch.cluster}, {len(parameters)},\n'
        f"     {{{', '.join(parameters)}}}}},"
    )


def _list(values: Sequence[int]) -> str:
    """Return an initialiser; C before C23 has no empty one."""
    return f"{{{', '.join(map(str, values)) or '0'}}}"
