"""Roles that work on jobs over streams."""
