"""Labelled datasets built from the tables of the logs."""
