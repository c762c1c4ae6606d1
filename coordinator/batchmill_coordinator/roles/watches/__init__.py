"""Roles that look at attempts while they run."""
