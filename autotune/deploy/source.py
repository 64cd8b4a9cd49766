"""The C source of an exported library's functions, and the header that declares them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.call import Argument
from autotune.hw_profiles.profile import HardwareProfile
from autotune.workload import DTYPES, Gemm

#: Element type -> type of a pointer to it in C, and DLPack's (code, bits).
_TYPES = {
    "float32": ("float", (2, 32)),
    "float16": ("uint16_t", (2, 16)),
    "bfloat16": ("uint16_t", (4, 16)),
    "int8": ("int8_t", (0, 8)),
    "int32": ("int32_t", (0, 32)),
}
#: Name of the string that says what a library holds.
DESCRIPTION = "autotune_library_description"


@dataclass(frozen=True)
class Function:
    """One function of a library: ``int symbol(const T *input, ..., T *output)``."""

    symbol: str
    inputs: tuple[Argument, ...]
    output: Argument
    comment: str

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """Inputs and output, in order."""
        return (*self.inputs, self.output)

    @property
    def prototype(self) -> str:
        """The declaration, without a semicolon."""
        words = [f"const {_TYPES[x.dtype][0]} *{x.name}" for x in self.inputs]
        words.append(f"{_TYPES[self.output.dtype][0]} *{self.output.name}")
        return f"int {self.symbol}({', '.join(words)})"


def symbol_of(workload: Gemm) -> str:
    """Return the name of a workload's function in C; different workloads have different names."""
    words = [f"autotune_gemm_{workload.m}x{workload.n}x{workload.k}", workload.layout]
    words += [workload.dtype]
    if workload.acc_dtype != DTYPES[workload.dtype][0]:
        words.append(f"acc_{workload.acc_dtype}")
    if workload.out_dtype != workload.dtype:
        words.append(f"to_{workload.out_dtype}")
    if workload.epilogue != "none":
        words.append(workload.epilogue)
    if workload.prepacked:
        words.append("prepacked")
    if workload.batch > 1:
        words.append(f"batch{workload.batch}")
    if workload.shared:
        words.append(f"shared_{workload.shared}")
    if workload.scale != 1:
        number = repr(workload.scale).replace("-", "minus").replace(".", "point")
        words.append(f"scale{number.replace('+', '')}")
    return "_".join(words)


def library_source(
    functions: Sequence[Function],
    description: Mapping[str, Any],
    profile: HardwareProfile,
    threads: int,
    amx: bool,
) -> str:
    """Return the C source of everything but TVM's code.

    Parameters
    ----------
    description
        What :func:`autotune.load_library` reads back.
    profile
        The CPU that the code was compiled for; the library refuses others that lack its features.
    threads
        How many threads a parallel kernel takes unless told otherwise.
    amx
        Whether a kernel uses AMX, which Linux has to be asked for.
    """
    features = " ".join(f'"{name}",' for name in profile.features)
    runtime = Path(__file__).with_name("runtime.c").read_text("utf-8")
    head = [
        f"#define NEEDED_FEATURES {features}",
        f"#define NEEDS_AMX {int(amx)}",
        f"#define THREADS {threads}",
    ]
    text = json.dumps(json.dumps(description, ensure_ascii=True))
    described = f"API const char {DESCRIPTION}[] = {text};"
    return "\n".join([*head, runtime, described, *map(_definition, functions), ""])


def _definition(function: Function) -> str:
    rows = []
    for argument in function.arguments:
        code, bits = _TYPES[argument.dtype][1]
        shape = ", ".join(map(str, argument.shape))
        strides = ", ".join(map(str, _strides(argument.shape)))
        rows.append(
            f'    {{"{argument.name}", {{{code}, {bits}, 1}}, {len(argument.shape)}, {{{shape}}},'
            f" {{{strides}}}, {argument.size}u}},"
        )
    names = [f"(void *){argument.name}" for argument in function.arguments]
    return "\n".join(
        [
            f"int __tvm_ffi_{function.symbol}(void *, const struct any *, int32_t, struct any *);",
            f"API {function.prototype} {{",
            "  static const struct argument arguments[] = {",
            *rows,
            "  };",
            f"  void *data[] = {{{', '.join(names)}}};",
            f"  return call(__tvm_ffi_{function.symbol}, arguments, data, {len(names)});",
            "}",
        ]
    )


def _strides(shape: Sequence[int]) -> list[int]:
    strides = [1]
    for extent in reversed(shape[1:]):
        strides.insert(0, strides[0] * extent)
    return strides


def header(functions: Sequence[Function], name: str, threads: int) -> str:
    """Return the header of a library called ``name``."""
    guard = "".join(char if char.isalnum() else "_" for char in f"AUTOTUNE_{name}_H").upper()
    declared = "\n\n".join(
        f"/* {function.comment}\n{_shapes(function)} */\n{function.prototype};"
        for function in functions
    )
    return f"""\
/* Functions of {name}, which autotune made. All return one of the codes below; those of one
 * library may be called from several threads at once. Arrays are row-major and contiguous, may
 * start at any address (multiples of 64 are a few percent faster), and the output must not share
 * memory with an input. float16 and bfloat16 are passed by their bits. */
#ifndef {guard}
#define {guard}

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

enum {{
  AUTOTUNE_OK = 0,
  AUTOTUNE_WRONG_CPU = 1,    /* it was compiled for a CPU with features that this one lacks */
  AUTOTUNE_BAD_ARGUMENT = 2, /* a pointer is NULL, or the output shares memory with an input */
  AUTOTUNE_FAILED = 3        /* out of memory */
}};

/* What was wrong with the last call of this thread that failed. */
const char *autotune_last_error(void);

/* AUTOTUNE_OK if this CPU can run the library; every function checks it too. */
int autotune_check_cpu(void);

/* Threads of parallel kernels: {threads} unless set, or fewer if the process may use fewer CPUs. */
int autotune_set_threads(int threads);

/* JSON: workloads, templates, configs, target, versions. */
extern const char {DESCRIPTION}[];

{declared}

#ifdef __cplusplus
}}
#endif

#endif
"""


def _shapes(function: Function) -> str:
    return "\n".join(
        f" * {x.name}: {' x '.join(map(str, x.shape))} of {x.dtype}" for x in function.arguments
    )
