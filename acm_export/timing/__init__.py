"""Measure the latency of a file on this device, for each budget and for controlled routing."""
