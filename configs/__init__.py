"""Hydra configuration: the one home of every default."""
