"""Models: compiled with what a tuning log holds, and with good defaults for all else."""
