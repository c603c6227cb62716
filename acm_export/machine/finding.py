"""The result of one check of this machine."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from acm_export.base.json_fields import JsonObject

State = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        name: Name of the check.
        state: ``missing`` if the thing is absent or unknown, ``wrong`` if it is there and cannot be used.
        found: What was found, or why it cannot be used.
        fix: Command or step that fixes it; None if nothing needs fixing, or nothing can be done.
    """

    name: str
    state: State
    found: str
    fix: str | None = None

    def to_json(self) -> JsonObject:
        """The finding for ``--json``."""
        return asdict(self)
