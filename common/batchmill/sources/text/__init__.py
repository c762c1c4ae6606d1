"""Sources of text, split at byte offsets and read as ranges of complete rows."""
