"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        name: Of what was looked at.
        state: ``missing`` where it is not there or cannot be known, ``wrong`` where it is there and does not do.
        found: What is there, or why it does not do.
        fix: The command or step that fixes it; None where nothing needs fixing or nothing can.
    """

    name: str
    state: State
    found: str
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)
