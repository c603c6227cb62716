"""User data: one reader and one grammar of --data for every verb."""
