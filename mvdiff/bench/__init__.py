"""Measurements of speed that users run on their own machines: one module a question."""
