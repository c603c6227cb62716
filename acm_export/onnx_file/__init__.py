"""ONNX files and their metadata: manifest, budget table, thresholds, budget input, targets, lowering."""
