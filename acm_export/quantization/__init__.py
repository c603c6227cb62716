"""Quantisation: int8 learners, dense linear layers and embeddings in an exported file."""
