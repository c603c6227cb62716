"""The command ``acm-export``. Signal handlers are installed before anything else is imported."""

from __future__ import annotations

import sys

from acm_export.base.interrupts import Interrupted, install


def main() -> None:
    """Run ``acm-export``."""
    install()
    try:
        from acm_export.cli import main as command

        command()
    except Interrupted:
        sys.stderr.write("error: interrupted\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
