"""Folders and buckets: where blobs, sources and outputs are stored."""
