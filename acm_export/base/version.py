"""The version of acm-export. It is here so that no module imports the root package."""

__version__ = "0.1.0"
