"""Streams, as all parts of the service know them: sources without an end, offsets in them, how far a job is."""
