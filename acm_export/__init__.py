"""Transformers with Adaptive Computation Modules, from a trained checkpoint to the device."""

from pathlib import Path as _Path

from acm_export.base.version import __version__

__all__ = ["__version__"]

for _name in ("calibration", "plugins"):
    if not (_Path(__file__).parent / _name).is_dir():
        raise ImportError(
            f"{_Path(__file__).parent / _name} must be a folder or a symbolic link to ../{_name}; it is not. "
            "Zip archives and Windows checkouts without core.symlinks lose links: git clone -c core.symlinks=true"
        )
