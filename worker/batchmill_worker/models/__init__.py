"""Loaded operators and model files."""
