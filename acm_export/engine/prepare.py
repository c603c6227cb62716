"""A file for any target, as the TensorRT at hand needs it; in memory, the file stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from acm_export.errors import EngineError
from acm_export.inspection import check_graph, check_thresholds
from acm_export.manifest import Manifest, read_manifest, write_manifest
from acm_export.model_file import read_model
from acm_export.targets import retarget

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

FIRST_STRONGLY_TYPED = (10, 3)
"""The oldest TensorRT 10 that the plugin is compiled for."""

OLDEST = (8, 5)


@dataclass(frozen=True)
class Prepared:
    """A model for TensorRT's parser.

    Args:
        model: With references to external data in the folder of ``source``.
        manifest: With the new target.
        source: The file that it was read from.
        was: The target that the file has.
    """

    model: onnx.ModelProto
    manifest: Manifest
    source: Path
    was: str


def target_for(version: tuple[int, int]) -> str:
    """Target that a TensorRT parses.

    Args:
        version: Major and minor.

    Raises:
        EngineError: The plugin is not made for it.
    """
    if version < OLDEST or (9, 0) <= version < FIRST_STRONGLY_TYPED:
        raise EngineError(
            f"TensorRT {version[0]}.{version[1]} is not supported; the plugin is made for 8.5, 8.6 and 10.3 or later",
            "install another TensorRT, for example: pip install 'tensorrt>=10.3'",
        )
    return "tensorrt-8" if version < (9, 0) else "tensorrt"


def prepare(path: Path, target: str) -> Prepared:
    """Read a file and rewrite it for TensorRT: no function bodies, plugin attributes, the budget a required input.

    Args:
        path: A file that acm-export wrote, for any target.
        target: ``tensorrt`` or ``tensorrt-8``.

    Raises:
        ModelFileError: The file is not ours, or another tool changed it.
        ExportError: The target cannot express the model.
    """
    model = read_model(path)
    manifest = read_manifest(model, path)
    check_graph(model, manifest, path)
    check_thresholds(model, manifest, path)
    rewritten = retarget(model, manifest, target)
    write_manifest(model, rewritten)
    return Prepared(model, rewritten, path, manifest.target)
