"""What this machine can do, and what it lacks: one check a function, none of which can take the others down."""
