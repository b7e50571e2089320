"""Residual-stream activations of dialogues."""
