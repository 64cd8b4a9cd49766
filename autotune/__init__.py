"""Autotune: finds fast GEMM kernels for one machine by searching a graph of configurations."""

__version__ = "0.1.0"
