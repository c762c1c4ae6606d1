"""Reading streams: sources without an end, cut by offsets and read again by offsets."""
