"""Number of examples that property tests run: all, or a third with the profile ``quick``."""

from __future__ import annotations

from hypothesis import settings

EXAMPLES = {"full": 60, "quick": 20}


def register_profiles() -> None:
    """Register both profiles and load ``full``; ``pytest --hypothesis-profile=quick`` loads the other afterwards."""
    for name, count in EXAMPLES.items():
        settings.register_profile(name, deadline=None, max_examples=count, print_blob=True)
    settings.load_profile("full")


def examples(full: int) -> settings:
    """Run ``full`` examples in the profile ``full``, and the share of the loaded profile in others."""
    return settings(max_examples=full * settings().max_examples // EXAMPLES["full"])
