"""What commands show: output for a terminal of any width, for a pipe and as JSON, and the keys that are pressed."""
