"""What is known of a file as it was before another tool changed it: the ONNX file, or its ``inspect --json``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from acm_export.base.errors import ModelFileError
from acm_export.base.file_kinds import ONNX, file_kind, not_a
from acm_export.base.files import check_input
from acm_export.onnx_file.manifest import Manifest, parse_manifest, read_manifest
from acm_export.onnx_file.model_file import data_files, read_model, tensor_values
from acm_export.onnx_file.thresholds import setting_thresholds

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

GIVE = (
    "give the ONNX file as it was before the other tool changed it, or the output of acm-export inspect --json for it"
)

_WHAT = "a manifest of acm-export"
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Original:
    """A file before another tool changed it.

    Args:
        path: Path of the ONNX or JSON file.
        manifest: Its manifest.
        thresholds: Thresholds float32 ``[N]`` by layer; with a budget input, for its default budget.
        model: The model, if it is an ONNX file; its external data is in the folder of ``path``.
    """

    path: Path
    manifest: Manifest
    thresholds: dict[str, NDArray[np.float32]]
    model: onnx.ModelProto | None = None

    @property
    def files(self) -> list[Path]:
        """The file and its external data files."""
        names = [] if self.model is None else data_files(self.model)
        return [self.path, *(self.path.parent / name for name in names)]


def read_original(path: Path) -> Original:
    """Read the ONNX file, or the JSON object that ``inspect --json`` printed for it, or the manifest in that object.

    Args:
        path: Path of the ONNX or JSON file.

    Raises:
        UsageError: There is no such file.
        ModelFileError: It holds no manifest, or not the thresholds of a manifest with a threshold for each learner.
    """
    check_input(path)
    if file_kind(path) == ONNX:
        model = read_model(path)
        manifest = read_manifest(model, path)
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        stored = {
            layer.name: tensor_values(tensors[layer.thresholds], path.parent)
            for layer in manifest.layers
            if layer.thresholds in tensors
        }
        return Original(path, manifest, _thresholds(manifest, stored, path), model)
    content = _read_json(path)
    manifest = parse_manifest(content.get("manifest", content), path, GIVE)
    return Original(path, manifest, _thresholds(manifest, content.get("thresholds"), path))


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_BYTES:
        raise ModelFileError(not_a(path, _WHAT, f"it has more than {_MAX_BYTES >> 20} MiB"), GIVE)
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFileError(not_a(path, _WHAT, "it is not JSON"), GIVE) from error
    manifest = content.get("manifest", content) if isinstance(content, dict) else None
    if not isinstance(manifest, dict) or "layers" not in manifest:
        raise ModelFileError(not_a(path, _WHAT, "it has no list of layers"), GIVE)
    return dict(content)


def _thresholds(manifest: Manifest, stored: object, path: Path) -> dict[str, NDArray[np.float32]]:
    """Those of the manifest's setting; the stored ones if it has neither a threshold nor a budget."""
    if manifest.setting.threshold is not None or manifest.setting.budget is not None:
        return setting_thresholds(manifest)
    thresholds: dict[str, NDArray[np.float32]] = {}
    for layer in manifest.layers:
        try:
            values = np.asarray(stored[layer.name], np.float32) if isinstance(stored, dict) else None
        except (KeyError, TypeError, ValueError, OverflowError):
            values = None
        if values is None or values.shape != (layer.num_learners,):
            raise ModelFileError(
                f"each learner of {path} has its own threshold, but the file does not have those of layer {layer.name}",
                GIVE,
            )
        thresholds[layer.name] = values
    return thresholds
