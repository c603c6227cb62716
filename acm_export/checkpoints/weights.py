"""The weights of a checkpoint folder: one file, or shards with an index; headers are checked before use.

An index is not trusted: its shards must be in the folder and contain exactly the tensors that it lists.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from acm_export.base.errors import AcmWarning, CheckpointError
from acm_export.base.files import sha256_of
from acm_export.checkpoints.pickled import pickled_header, read_pickled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
Shapes = dict[str, tuple[int, ...]]
Header = dict[str, tuple[tuple[int, ...], str]]
"""Shape and dtype of every tensor."""

WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX, PICKLED_INDEX = f"{WEIGHTS}.index.json", f"{PICKLED}.index.json"
_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MAX_INDEX_BYTES = 64 << 20
_COPY_AGAIN = "copy or download the folder again"
ONE_SAVE = "config.json and the weights must come from the same model: copy both from the same folder"


@dataclass(frozen=True)
class Weights:
    """Names, shapes and dtypes of all tensors of a checkpoint folder; the values are read on demand.

    Args:
        path: Path of the weights file or of the index, for errors.
        files: Weights files, sorted by name.
        shapes: Shapes by tensor name.
        dtypes: Dtypes by tensor name, in the notation of safetensors (F32, BF16, ...).
    """

    path: Path
    files: tuple[Path, ...]
    shapes: Shapes
    dtypes: dict[str, str]

    @property
    def dtype(self) -> torch.dtype:
        """Most common floating-point dtype."""
        counts = Counter(dtype for dtype in self.dtypes.values() if dtype in _FLOATS)
        return _FLOATS[counts.most_common(1)[0][0]] if counts else torch.float32

    def read(self) -> dict[str, torch.Tensor]:
        """Read all tensors."""
        tensors: dict[str, torch.Tensor] = {}
        for path in self.files:
            if path.suffix == ".bin":
                tensors |= {name: tensor.clone() for name, tensor in read_pickled(path).items()}
                continue
            with safe_open(path, "pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a dict
        return tensors

    def sha256(self) -> str:
        """Hex SHA-256 of the weights file, or of the digests of all shards."""
        digests = [sha256_of(path) for path in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def has_weights(folder: Path) -> bool:
    """Whether a folder has weights in one of the forms that :func:`find_weights` reads."""
    return any((folder / name).is_file() for name in (WEIGHTS, INDEX, PICKLED, PICKLED_INDEX))


def find_weights(folder: Path) -> Weights:
    """Read the headers of a folder's weights; no values are read.

    Args:
        folder: Folder with ``model.safetensors`` or ``pytorch_model.bin``, or with shards of either and their index.

    Raises:
        CheckpointError: There are no weights, a file is broken, or the index contradicts its shards.
    """
    for name in (WEIGHTS, INDEX, PICKLED, PICKLED_INDEX):
        if (path := folder / name).is_file():
            return _read_shards(path) if name.endswith(".json") else Weights(path, (path,), *_columns(_header(path)))
    others = sorted(p.name for p in folder.glob("*") if p.suffix in (".h5", ".msgpack", ".gguf", ".ckpt", ".bin"))
    also = f"; it has {quoted(others)}" if others else ""
    raise CheckpointError(
        f"{folder} has no {WEIGHTS} and no {INDEX}{also}", "save the model with save_pretrained of transformers"
    )


def _read_shards(index: Path) -> Weights:
    folder, announced = index.parent, _read_index(index)
    files = tuple(folder / name for name in sorted(set(announced.values())))
    found: dict[str, str] = {}
    headers: Header = {}
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{index.name} names the shard {file.name}, which is not in {folder}", _COPY_AGAIN)
        header = _header(file)
        for name in header:
            if name in found:
                raise CheckpointError(f"{name} is in two shards: {found[name]} and {file.name}", _COPY_AGAIN)
            found[name] = file.name
        headers |= header
    _compare_index(index.name, announced, found)
    return Weights(index, files, *_columns(headers))


def _columns(header: Header) -> tuple[Shapes, dict[str, str]]:
    return {name: shape for name, (shape, _) in header.items()}, {name: dtype for name, (_, dtype) in header.items()}


def _header(path: Path) -> Header:
    """Shape and dtype of every tensor of a file."""
    if path.suffix == ".bin":
        return pickled_header(path)
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
    announced, suffix = content["weight_map"], Path(path.name.removesuffix(".index.json")).suffix
    for tensor, shard in announced.items():
        if not isinstance(shard, str) or not shard.endswith(suffix) or set(shard) & set("/\\:\0"):
            raise CheckpointError(
                f"{path} names the shard {shard!r} for {tensor}; expected a {suffix} file in the same folder",
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


def _compare_index(index: str, announced: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name, shard in announced.items():
        if name not in found:
            raise CheckpointError(f"{index} lists {name} in {shard}, but no shard contains it", _COPY_AGAIN)
        if found[name] != shard:
            raise CheckpointError(f"{index} lists {name} in {shard}, but it is in {found[name]}", _COPY_AGAIN)
    if extra := sorted(found.keys() - announced.keys()):
        raise CheckpointError(f"{found[extra[0]]} contains {extra[0]}, which {index} does not list", _COPY_AGAIN)


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
        parts = [f"{word} {quoted(names)}" for word, names in (("lacks", missing), ("has", extra)) if names]
        raise CheckpointError(f"{path.name} contradicts config.json: it {'; it '.join(parts)}", ONE_SAVE)
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{path.name} contradicts config.json: {name} is {list(found[name])}; expected {list(shape)}", ONE_SAVE
            )


def check_not_quantised(weights: Weights) -> None:
    """Refuse quantised weights: matrices of integers or of 8-bit floats.

    Raises:
        CheckpointError: A weight is quantised; the message has its name and dtype.
    """
    for name, dtype in weights.dtypes.items():
        matrix = len(weights.shapes[name]) > 1 and name.endswith("weight") and dtype not in (*_FLOATS, "BOOL")
        if matrix or name.endswith((".qweight", ".weight_packed")):
            raise CheckpointError(
                f"{weights.path.name} has quantised weights: {name} is {dtype}; learners need floating-point weights",
                "give the original model in float32, float16 or bfloat16, and run acm-export quantize on the file",
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


def quoted(names: Sequence[str]) -> str:
    """The first four names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
