"""Facts about this machine: GPUs, clocks, processes, installed versions."""
