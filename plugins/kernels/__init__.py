"""The staircase kernels: one Triton source, interpreted on a CPU, run from PyTorch, compiled ahead of time."""
