"""Function bodies that differ by overload, for versions of ONNX Runtime that look functions up by name only."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx

FIRST = (1, 27)
"""First version of ONNX Runtime that supports overloads. Tested: 1.23.2 and 1.26.0 run all nodes with the same body."""


def serialize(model: onnx.ModelProto, runtime: str) -> bytes:
    """Serialise a model; for a runtime without overloads, each function body gets a unique name.

    Args:
        model: Model whose function bodies do not call each other; not changed.
        runtime: Version of ONNX Runtime.
    """
    overloaded = [] if supports_overloads(runtime) or not has_overloads(model) else list(_overloaded(model))
    kept = [(_get_name(item), item.overload) for item in overloaded]
    try:
        for item in overloaded:
            _set_name(item, f"{_get_name(item)}_{item.overload}", "")
        content: bytes = model.SerializeToString()
    finally:
        for item, (name, overload) in zip(overloaded, kept, strict=True):
            _set_name(item, name, overload)
    return content


def supports_overloads(runtime: str) -> bool:
    """Whether this version of ONNX Runtime distinguishes function bodies by overload."""
    return tuple(map(int, re.findall(r"\d+", runtime)[:2])) >= FIRST


def has_overloads(model: onnx.ModelProto) -> bool:
    """Whether the model has function bodies of the same name, which differ only by overload."""
    return len({(f.domain, f.name) for f in model.functions}) < len(model.functions)


def _overloaded(model: onnx.ModelProto) -> Iterator[onnx.FunctionProto | onnx.NodeProto]:
    yield from (function for function in model.functions if function.overload)
    yield from (node for node in model.graph.node if node.overload)


def _get_name(item: onnx.FunctionProto | onnx.NodeProto) -> str:
    name: str = getattr(item, _name_field(item))
    return name


def _set_name(item: onnx.FunctionProto | onnx.NodeProto, name: str, overload: str) -> None:
    setattr(item, _name_field(item), name)
    item.overload = overload


def _name_field(item: onnx.FunctionProto | onnx.NodeProto) -> str:
    return "op_type" if hasattr(item, "op_type") else "name"
