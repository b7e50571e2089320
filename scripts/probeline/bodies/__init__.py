"""What rules run that can run here or on Modal: one function per rule, of its name."""
