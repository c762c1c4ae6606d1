"""What workers and pools look like now."""
