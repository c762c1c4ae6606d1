"""The metrics of a worker: counted in its device processes and in the supervisor, which serves all of them."""
