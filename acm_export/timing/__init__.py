"""Latency: what a file costs on this device, for each budget and for controlled routing."""
