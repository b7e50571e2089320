"""Probeline: from raw logs of multi-agent games to honestly tested probes."""

__version__ = "0.1.0"
