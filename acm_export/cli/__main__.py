"""``python -m acm_export.cli``."""

from acm_export.cli import main

main()
