"""What all services know of stages that keep state from one shard to the next."""
