"""Templates for CPUs, written as ``tvm.s_tir`` schedules."""
