"""What a worker counts: in its device processes, and beside them in the supervisor, which serves it all."""
