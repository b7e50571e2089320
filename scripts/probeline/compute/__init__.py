"""Where the work runs, and what every job shares."""
