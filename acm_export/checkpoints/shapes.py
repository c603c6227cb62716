"""Hold the shapes in a weights file against those that its config announces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acm_export.base.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

Shapes = dict[str, tuple[int, ...]]

_HINT = "config.json and the weights must be of one save: copy both from the same folder"


def compare_shapes(expected: Shapes, found: Shapes, path: Path) -> None:
    """Refuse the first difference.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of another shape; the message has its name and both shapes.
    """
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        parts = [f"{word} {', '.join(names[:4])}" for word, names in (("lacks", missing), ("has", extra)) if names]
        raise CheckpointError(f"{path.name} contradicts config.json: it {'; it '.join(parts)}", _HINT)
    for name, shape in expected.items():
        if found[name] != shape:
            raise CheckpointError(
                f"{path.name} contradicts config.json: {name} is {list(found[name])}, expected {list(shape)}", _HINT
            )
