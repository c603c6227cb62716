"""The demo, and its embedded model: a trained ACM Vision Transformer for handwritten digits."""
