"""Refuse to build where the links acm_export/calibration and acm_export/plugins are not folders."""

import sys
from pathlib import Path

from setuptools import setup

for name in ("calibration", "plugins"):
    if not (Path(__file__).parent / "acm_export" / name).is_dir():
        sys.exit(
            f"error: acm_export/{name} must be a symbolic link to ../{name}, but it is a file or missing. "
            "Zip archives and Windows checkouts without core.symlinks lose links.\n"
            f"hint: git clone -c core.symlinks=true, or: ln -sfn ../{name} acm_export/{name}"
        )

setup()
