"""From a verified file to a TensorRT engine, and what is known about an engine beside it."""
