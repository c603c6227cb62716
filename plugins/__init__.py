"""What runs GatedLearners on NVIDIA GPUs. So far: how TensorRT finds the plugin by name."""
