"""Templates for NVIDIA GPUs, their static model, and the compile step that needs no GPU."""
