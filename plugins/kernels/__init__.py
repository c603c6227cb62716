"""The staircase kernels in Triton and CUDA: interpreted on a CPU, run from PyTorch, or compiled ahead of time."""
