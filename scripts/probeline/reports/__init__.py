"""What people read in a browser: the report on a run, and a game as it was played."""
