"""The HTTP API: everything that knows HTTP, and no decisions."""
