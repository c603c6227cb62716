"""Decide what runs in int8, from the graph, the manifest and the options."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from acm_export.base.errors import ModelFileError, QuantizationError, UsageError
from acm_export.onnx_file.quantization.embeddings import find_embeddings
from acm_export.onnx_file.quantization.learners import find_learners
from acm_export.onnx_file.quantization.linears import Kept, Site, find_linears, module_name, sites
from acm_export.op.quantized_signature import MAX_SUM

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import onnx

    from acm_export.onnx_file.manifest import LayerEntry, Manifest
    from acm_export.onnx_file.quantization.learners import LearnerWeights
    from acm_export.onnx_file.quantization.view import GraphView
    from acm_export.quantization.options import Options

_KEPT_BY_USER = "kept by --keep"
_DYNAMIC_TARGETS = ("portable",)
"""Targets whose runtime can scale activations at run time."""


@dataclass(frozen=True)
class Selection:
    """What runs in int8.

    Args:
        layers: ACM layers, with the names of their weights.
        sites: Tensors that are quantised, and the linear layers that read them.
        embeddings: Names of embedding tables.
        kept: What stays in float, and why; gates are not listed.
    """

    layers: tuple[tuple[LayerEntry, LearnerWeights], ...]
    sites: tuple[Site, ...]
    embeddings: tuple[str, ...]
    kept: tuple[Kept, ...]

    @property
    def linears(self) -> tuple[str, ...]:
        """Names of the weights of the linear layers."""
        return tuple(linear.weight for site in self.sites for linear in site.linears)

    @property
    def kept_by_user(self) -> tuple[str, ...]:
        """Names of what stays in float because the user asked for it."""
        return tuple(kept.name for kept in self.kept if kept.reason == _KEPT_BY_USER)

    def readers(self) -> dict[str, list[str]]:
        """Names of the layers that read each tensor that gets a scale."""
        found = self.layers_by_tensor()
        for site in self.sites:
            found.setdefault(site.x, []).extend(linear.module for linear in site.linears)
        return found

    def layers_by_tensor(self) -> dict[str, list[str]]:
        """Names of the ACM layers that read each tensor."""
        found: dict[str, list[str]] = {}
        for layer, weights in self.layers:
            found.setdefault(weights.x, []).append(layer.name)
        return found


def check_can_quantize(manifest: Manifest, path: Path, options: Options) -> None:
    """Refuse files that cannot be quantised.

    Args:
        manifest: Manifest of the file.
        path: Path of the file, for errors.
        options: How to quantise.

    Raises:
        ModelFileError: The file is already quantised, or bf16.
        UsageError: The target does not support dynamic activations.
    """
    if manifest.quantization is not None:
        raise ModelFileError(
            f"{path} is already quantised, with {manifest.quantization.activations} activations and "
            f"{manifest.quantization.weight_bits}-bit weights",
            "quantize the float file that it was made from",
        )
    if manifest.dtype == "bf16":
        raise ModelFileError(
            f"{path} is bf16, for which runtimes have no int8 products",
            "export the checkpoint again with --dtype fp32 or fp16, and quantize that file",
        )
    if options.dynamic and manifest.target not in _DYNAMIC_TARGETS:
        raise UsageError(
            f"{path} is for the target {manifest.target}, which takes fixed scales only, not --activations dynamic",
            "give --data instead, or export for the target portable",
        )


def select(model: onnx.ModelProto, manifest: Manifest, view: GraphView, path: Path, options: Options) -> Selection:
    """Decide what runs in int8.

    Args:
        model: Model of the file.
        manifest: Manifest of the model.
        view: View of its graph.
        path: Path of the file, for errors.
        options: What to quantise.

    Raises:
        UsageError: A pattern matches nothing, or nothing is left to quantise.
        QuantizationError: A layer is too wide for the int8 operator.
    """
    entries = {layer.name: layer for layer in manifest.layers}
    learners = find_learners(model)
    found, left = find_linears(model, view)
    tables = find_embeddings(view)
    names = [*learners, *(linear.weight for linear in found), *tables, *(kept.name for kept in left)]
    kept_names = _matching(options.keep, names, path)
    kept = [Kept(name, _KEPT_BY_USER) for name in names if name in kept_names]
    kept += [item for item in left if item.name not in kept_names]
    linears = tuple(linear for linear in found if linear.weight not in kept_names)
    if options.learners_only:
        kept += [Kept(linear.weight, "left out by --only learners") for linear in linears]
        linears = ()
    layers = tuple((entries[name], weights) for name, weights in learners.items() if name not in kept_names)
    for layer, _ in layers:
        _check_width(layer)
    embeddings = tuple(name for name in tables if name not in kept_names) if options.embeddings else ()
    selected = Selection(layers, sites(linears, view), embeddings, tuple(kept))
    if not (selected.layers or selected.sites or selected.embeddings):
        reasons = sorted({item.reason for item in selected.kept})
        raise UsageError(
            f"nothing in {path} can run in int8" + (f": {'; '.join(reasons)}" if reasons else ""),
            "see docs/int8.md for what can",
        )
    return selected


def _matching(patterns: Sequence[str], names: Iterable[str], path: Path) -> set[str]:
    """Names that a pattern matches: names of layers, of weights, or of the modules of weights."""
    known = {name: {name, module_name(name)} for name in names}
    kept_names: set[str] = set()
    for pattern in patterns:
        matches = {name for name, forms in known.items() if any(fnmatchcase(form, pattern) for form in forms)}
        if not matches:
            some = ", ".join(module_name(name) for name in list(known)[:3])
            raise UsageError(
                f"--keep {pattern!r} matches no layer of {path}; it has {some}, ...",
                "* matches any characters, as in --keep '*.attention.*'",
            )
        kept_names |= matches
    return kept_names


def _check_width(layer: LayerEntry) -> None:
    for name, size in (("D", layer.model_dim), ("N*h", layer.num_learners * layer.hidden_dim)):
        if size > MAX_SUM:
            raise QuantizationError(
                f"{layer.name} has {name} = {size}; int32 sums of int8 products allow at most {MAX_SUM}",
                f"keep it in float: --keep {layer.name!r}",
            )
