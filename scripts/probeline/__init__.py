"""Probeline: from raw logs of multi-agent games to honestly tested probes."""
