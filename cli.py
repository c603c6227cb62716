"""Run acm-export from a checkout: ``python cli.py VERB``. The installed command is ``acm-export``."""

from acm_export.__main__ import main

if __name__ == "__main__":
    main()
