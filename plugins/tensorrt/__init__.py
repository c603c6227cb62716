"""The TensorRT plugin: C++ sources, embedding of the kernel pack, and compiling the library on this machine."""
