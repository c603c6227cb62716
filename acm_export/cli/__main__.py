"""``python -m acm_export.cli``."""

from acm_export.launcher import main

main()
