"""Kernels as shared libraries that need neither TVM nor Python where they run."""
