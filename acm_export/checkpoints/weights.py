"""The weights of a checkpoint folder: one safetensors file, or shards with an index; headers are checked before use.

An index is not trusted: its shards must be in the folder and contain exactly the tensors that it lists.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from acm_export.base.errors import AcmWarning, CheckpointError
from acm_export.base.files import sha256_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

Shapes = dict[str, tuple[int, ...]]

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
_MAX_INDEX_BYTES = 64 << 20
_COPY_AGAIN = "copy or download the folder again"
_ONE_SAVE = "config.json and the weights must come from the same model: copy both from the same folder"


@dataclass(frozen=True)
class Weights:
    """Names, shapes and dtypes of all tensors of a checkpoint folder; the values are read on demand.

    Args:
        path: Path of ``model.safetensors`` or of the index, for errors.
        files: Weights files, sorted by name.
        shapes: Shapes by tensor name.
        dtypes: Dtypes by tensor name, in the notation of safetensors (F32, BF16, ...).
    """

    path: Path
    files: tuple[Path, ...]
    shapes: Shapes
    dtypes: dict[str, str]

    def read(self) -> dict[str, torch.Tensor]:
        """Read all tensors."""
        tensors: dict[str, torch.Tensor] = {}
        for path in self.files:
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a dict
        return tensors

    def sha256(self) -> str:
        """Hex SHA-256 of the weights file, or of the digests of all shards."""
        digests = [sha256_of(path) for path in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def find_weights(folder: Path) -> Weights:
    """Read the headers of a folder's weights; no tensor is read.

    Args:
        folder: Folder with ``model.safetensors``, or with ``model.safetensors.index.json`` and its shards.

    Raises:
        CheckpointError: There are no weights, a file is broken, or the index contradicts its shards.
    """
    if (path := folder / WEIGHTS).is_file():
        header = _header(path)
        return Weights(path, (path,), *_columns(header))
    if not (index := folder / INDEX).is_file():
        raise CheckpointError(
            f"{folder} has no {WEIGHTS} and no {INDEX}",
            "pickled weights (pytorch_model.bin) are not read: save the model with save_pretrained of transformers",
        )
    announced = _read_index(index)
    files = tuple(folder / name for name in sorted(set(announced.values())))
    found: dict[str, str] = {}
    headers: dict[str, tuple[tuple[int, ...], str]] = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{INDEX} names the shard {file.name}, which is not in {folder}", _COPY_AGAIN)
        header = _header(file)
        for name in header:
            if name in found:
                raise CheckpointError(f"{name} is in two shards: {found[name]} and {file.name}", _COPY_AGAIN)
            found[name] = file.name
        headers |= header
    _compare_index(announced, found)
    return Weights(index, files, *_columns(headers))


def _columns(header: dict[str, tuple[tuple[int, ...], str]]) -> tuple[Shapes, dict[str, str]]:
    return {name: shape for name, (shape, _) in header.items()}, {name: dtype for name, (_, dtype) in header.items()}


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of every tensor of a file."""
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is not a dict
            return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file: {error}", "copy or save it again"
        ) from error


def _read_index(path: Path) -> dict[str, str]:
    """The shard of every tensor according to the index; every shard is the name of a file in the same folder."""
    if (size := path.stat().st_size) > _MAX_INDEX_BYTES:
        raise CheckpointError(f"{path} has {size} bytes; an index has at most {_MAX_INDEX_BYTES}")
    try:
        content = json.loads(path.read_bytes(), object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON index: {error}", _COPY_AGAIN) from error
    for field in ("metadata", "weight_map"):
        if not isinstance(content, dict) or not isinstance(content.get(field), dict):
            raise CheckpointError(f"{path} has no object {field!r}", "save the model again with transformers")
    announced = content["weight_map"]
    for tensor, shard in announced.items():
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or set(shard) & set("/\\:\0"):
            raise CheckpointError(
                f"{path} names the shard {shard!r} for {tensor}; expected a .safetensors file in the same folder",
                _COPY_AGAIN,
            )
    if not announced:
        raise CheckpointError(f"{path} lists no tensors", _COPY_AGAIN)
    return dict(announced)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]!r} is listed twice")
    return dict(pairs)


def _compare_index(announced: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name, shard in announced.items():
        if name not in found:
            raise CheckpointError(f"{INDEX} lists {name} in {shard}, but no shard contains it", _COPY_AGAIN)
        if found[name] != shard:
            raise CheckpointError(f"{INDEX} lists {name} in {shard}, but it is in {found[name]}", _COPY_AGAIN)
    if extra := sorted(found.keys() - announced.keys()):
        raise CheckpointError(f"{found[extra[0]]} contains {extra[0]}, which {INDEX} does not list", _COPY_AGAIN)


def compare_shapes(expected: Shapes, found: Shapes, path: Path) -> None:
    """Compare the tensors of a weights file with the model that its config describes.

    Args:
        expected: Shapes by tensor name, from the config.
        found: Shapes by tensor name, from the weights file.
        path: Path of the weights file, for errors.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape; the message has its name and both shapes.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        parts = [f"{word} {', '.join(names[:4])}" for word, names in (("lacks", missing), ("has", extra)) if names]
        raise CheckpointError(f"{path.name} contradicts config.json: it {'; it '.join(parts)}", _ONE_SAVE)
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{path.name} contradicts config.json: {name} is {list(found[name])}; expected {list(shape)}", _ONE_SAVE
            )


def warn_about_values(state: Mapping[str, torch.Tensor]) -> None:
    """Warn once, by name, about all tensors that contain NaN or infinity; thresholds may be infinite."""
    broken = []
    for name, tensor in state.items():
        if tensor.is_floating_point():
            bad = tensor.isnan() if name.endswith(".thresholds") else ~tensor.isfinite()
            if count := int(bad.sum()):
                broken.append(f"{name} ({count} of {tensor.numel()} values)")
    if broken:
        more = f" and {len(broken) - 5} more" if len(broken) > 5 else ""
        warnings.warn(f"NaN or infinite weights: {', '.join(broken[:5])}{more}", AcmWarning, stacklevel=3)
