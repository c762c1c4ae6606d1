"""Sources in Parquet and Arrow files, split at row numbers."""
