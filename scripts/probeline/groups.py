"""How many groups (games, events, dialogues) a verdict over them rests upon at least."""

FEWEST_GROUPS, FEW_GROUPS = 5, 10
"""Below the first a bootstrap over groups is no guide; below the second its verdict is one with caution."""
