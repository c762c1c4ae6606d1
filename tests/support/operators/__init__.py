"""Operators for tests. Workers import these modules by their bare names; `path.py` puts this folder on their path."""
