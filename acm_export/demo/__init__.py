"""The embedded model, a trained ACM Vision Transformer for handwritten digits, and the demonstration that runs it."""
