"""The indexes that sinks have published: who may write one, what is in it, and searches."""
