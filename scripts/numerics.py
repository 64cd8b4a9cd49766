"""Products that are to be right on a GPU before anything else: all that differs in the kernels.

Every type, layout, kind of cluster and store, copies and slices, on odd shapes.
"""

from __future__ import annotations

from typing import Any

from autotune.workload import Gemm

#: (template, product, changes to the default config).
NUMERICS: list[tuple[str, Gemm, dict[str, Any]]] = [
    ("wgmma", Gemm(512, 512, 512, "nt", "bfloat16"), {"cluster_m": 1, "cluster_n": 1}),
    ("wgmma", Gemm(131, 67, 72, "nt", "bfloat16", epilogue="bias"), {}),
    (
        "wgmma",
        Gemm(1000, 776, 328, "nt", "bfloat16", epilogue="bias_gelu"),
        {"cluster_m": 2, "cluster_n": 1},
    ),
    ("wgmma", Gemm(1000, 776, 328, "nn", "float16", epilogue="bias_relu"), {"store": "direct"}),
    ("wgmma", Gemm(1000, 776, 328, "tn", "float16"), {"cluster_m": 1, "cluster_n": 2}),
    ("wgmma", Gemm(1000, 776, 328, "nt", "float16"), {"cluster_m": 4, "cluster_n": 1, "group": 1}),
    (
        "wgmma",
        Gemm(1000, 776, 328, "nt", "float16"),
        {"cluster_m": 1, "cluster_n": 4, "block_n": 64},
    ),
    (
        "wgmma",
        Gemm(1000, 776, 328, "tt", "float16", epilogue="relu"),
        {"cluster_m": 2, "cluster_n": 2},
    ),
    ("wgmma", Gemm(4096, 4096, 1024, "nt", "float16"), {}),
    ("wgmma", Gemm(1, 4096, 4096, "nt", "bfloat16"), {}),
    ("wgmma", Gemm(1000, 776, 328, "nt", "bfloat16", epilogue="bias_residual"), {}),
    ("wgmma", Gemm(515, 333, 272, "nt", "int8", epilogue="bias_relu"), {}),
    ("wgmma", Gemm(515, 336, 272, "nt", "float8_e4m3fn", epilogue="bias"), {}),
    ("wgmma", Gemm(515, 333, 276, "nt", "tfloat32", epilogue="bias_relu"), {}),
    ("wgmma", Gemm(16, 4096, 4096, "nt", "bfloat16", epilogue="bias_gelu"), {"split_k": 4}),
    (
        "wgmma",
        Gemm(131, 72, 1000, "nn", "float16", epilogue="bias"),
        {"split_k": 3, "store": "direct"},
    ),
    ("wgmma", Gemm(515, 333, 270, "nn", "int8"), {}),
    ("wgmma", Gemm(515, 333, 277, "tn", "float8_e4m3fn", epilogue="bias"), {}),
    ("wgmma", Gemm(515, 333, 275, "tt", "tfloat32"), {}),
    ("wgmma", Gemm(515, 333, 277, "nt", "bfloat16", epilogue="bias"), {}),
    ("wgmma", Gemm(515, 333, 277, "tn", "float16"), {"split_k": 2}),
    (
        "wgmma",
        Gemm(130, 72, 136, "nn", "float16", epilogue="bias_residual", batch=5, scale=0.5),
        {},
    ),
    (
        "wgmma",
        Gemm(130, 72, 136, "nn", "float16", epilogue="rowbias_relu", batch=5, shared="a"),
        {},
    ),
    ("wgmma", Gemm(130, 72, 133, "nt", "bfloat16", batch=5, shared="b"), {}),
    ("mma_sync", Gemm(131, 67, 37, "nn", "bfloat16", epilogue="bias"), {}),
    ("mma_sync", Gemm(131, 67, 1000, "tn", "float16", epilogue="bias"), {"split_k": 3}),
    ("mma_sync", Gemm(515, 333, 270, "tt", "int8", epilogue="bias"), {}),
    ("mma_sync", Gemm(1000, 776, 328, "tt", "float16", epilogue="bias_gelu"), {}),
    ("mma_sync", Gemm(515, 333, 270, "nt", "int8", epilogue="bias_relu"), {}),
    ("mma_sync", Gemm(515, 333, 277, "nn", "bfloat16", epilogue="bias"), {"unaligned": "copy"}),
    ("mma_sync", Gemm(515, 333, 277, "nt", "int8"), {"unaligned": "copy"}),
    ("mma_sync", Gemm(130, 72, 136, "tn", "bfloat16", epilogue="bias_residual", batch=5), {}),
    ("simt", Gemm(67, 131, 1000, "nt", "float32", epilogue="bias"), {"split_k": 4}),
    ("simt", Gemm(131, 67, 37, "tn", "float32", epilogue="bias"), {}),
    ("simt", Gemm(1024, 1024, 1024, "nn", "float32"), {}),
    ("simt", Gemm(131, 67, 37, "tt", epilogue="residual", batch=5), {}),
]
