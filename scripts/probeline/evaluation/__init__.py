"""Evaluation of adapters on held-out data: the base, an adapter and its checkpoints on the same prompts."""
