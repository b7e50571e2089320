"""Adapters: recipes, and their training over TRL and PEFT."""
