"""The background loops of the leader: I/O around pure decisions."""
