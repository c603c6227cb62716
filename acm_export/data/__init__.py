"""The data a user brings: one reader and one grammar of --data for every verb."""
