"""Resuming the work that another job has left in its output."""
