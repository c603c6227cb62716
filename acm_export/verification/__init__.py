"""Check that an ONNX file computes what its PyTorch model computes."""
