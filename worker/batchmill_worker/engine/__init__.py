"""Running the rows of one shard through an operator."""
