"""Raw logs of every format: simulating, reading, checking and tabulating them."""
