"""Results as tables, text and HTML reports."""
