"""How many examples property tests run: all of them, or a third of them where the profile ``quick`` is loaded."""

from __future__ import annotations

from hypothesis import settings

EXAMPLES = {"full": 60, "quick": 20}


def register_profiles() -> None:
    """Register both profiles and load ``full``; ``pytest --hypothesis-profile=quick`` loads the other afterwards."""
    for name, count in EXAMPLES.items():
        settings.register_profile(name, deadline=None, max_examples=count, print_blob=True)
    settings.load_profile("full")


def examples(full: int) -> settings:
    """Run ``full`` examples in the profile ``full``, and as large a share of them as the loaded profile has."""
    return settings(max_examples=full * settings().max_examples // EXAMPLES["full"])
