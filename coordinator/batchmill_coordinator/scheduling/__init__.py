"""Which shard goes where, and how large it is: pure decisions, and the publisher of messages."""
