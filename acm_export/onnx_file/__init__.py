"""An ONNX file and what it says of itself: manifest, budget table, thresholds, targets."""
