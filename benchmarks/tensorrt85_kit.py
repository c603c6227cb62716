"""An unpacked TensorRT 8.5.3 with its own Python, numpy, onnx and click: what it needs to run this checkout."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

WITHOUT_CUBLAS = ("-CUBLAS", "-CUBLAS_LT", "-CUDNN")
"""Tactic sources: the unpacked TensorRT has empty stubs of these libraries."""

_PURE = ("rich", "markdown_it", "mdurl", "pygments", "click")
"""Pure Python packages that another Python can share with this one."""


def environment(folder: Path) -> dict[str, str]:
    """Environment in which the other Python imports this checkout, and the pure packages that the checkout needs.

    Args:
        folder: Folder to create, for links.
    """
    root, package = Path(__file__).parent.parent, folder / "acm_export"
    package.mkdir(parents=True)
    for part in (root / "acm_export").iterdir():
        (package / part.name).symlink_to(part.resolve())
    for name in _PURE:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            (folder / name).symlink_to(Path(spec.origin).parent)
    return os.environ | {"PYTHONPATH": str(folder)}
