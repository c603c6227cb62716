"""The TensorRT plugin: C++ sources, the kernel pack that goes into them, and building the library on this machine."""
