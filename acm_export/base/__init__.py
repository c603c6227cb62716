"""What every package builds on: errors, files and their kinds, JSON fields, optional imports, interrupts, progress."""
