"""Validates sources when a job is submitted: their files, schema and row counts."""
