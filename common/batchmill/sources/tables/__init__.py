"""Tables of Delta Lake and Iceberg: which files are current at a version."""
