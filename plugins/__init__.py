"""GatedLearners on NVIDIA GPUs: the kernels, and the TensorRT plugin that runs them."""
