"""Results in the formats of other autotuners."""
