"""What runs exported files."""
