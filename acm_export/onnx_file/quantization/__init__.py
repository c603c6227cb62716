"""int8 in the graph of an exported file: find what can be quantised, and rewrite it with given scales."""
