"""Submitting a job: rows of any kind become Arrow parts, which are sent with the job or uploaded before it."""
