"""Platform wheels: the plugin compiled for every TensorRT and both processors, without a GPU. For maintainers."""
