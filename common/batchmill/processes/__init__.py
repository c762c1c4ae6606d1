"""Child processes: start, supervise and stop them, and end them with their parent."""
