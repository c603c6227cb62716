"""What everything stands on: errors, atomic files, JSON fields, optional imports, interrupts, progress."""
