"""Transformers with Adaptive Computation Modules, from a trained checkpoint to the device."""

__version__ = "0.1.0"
