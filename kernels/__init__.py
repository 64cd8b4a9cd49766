"""Templates: from a workload and a hardware profile to a space, and from a config to a kernel."""
