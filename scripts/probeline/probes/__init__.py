"""Training, testing and using probes."""
