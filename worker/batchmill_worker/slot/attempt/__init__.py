"""One attempt of a shard: the steps from the message to the commit, and the runner that takes a shard through them."""
