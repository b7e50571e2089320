"""Forecasts of a model: reading them, matching them with what happened, and how good they are."""
