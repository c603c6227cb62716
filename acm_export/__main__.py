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
    except ModuleNotFoundError as error:
        if error.name != "click":
            raise
        from acm_export.base.optional import install_command

        sys.stderr.write(f"error: the package click is not installed\nhint: {install_command()}\n")
        sys.exit(1)
    except Interrupted:
        sys.stderr.write("error: interrupted\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
