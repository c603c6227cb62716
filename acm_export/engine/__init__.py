"""Build TensorRT engines from verified files, and run them; a passport records what an engine was built from."""
