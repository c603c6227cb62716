"""Run ONNX files: ONNX Runtime sessions, and the CUDA driver."""
