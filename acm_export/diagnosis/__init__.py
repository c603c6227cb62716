"""Check what this machine can do and what is missing, one function per check; a failing one does not stop others."""
