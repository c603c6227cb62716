"""An ONNX file and what it says about itself: manifest, budget table, thresholds, budget input, targets, lowering."""
