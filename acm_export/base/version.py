"""The version of acm-export. It lives here so that no module needs the root package for it."""

__version__ = "0.1.0"
