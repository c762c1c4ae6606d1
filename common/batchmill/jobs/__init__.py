"""What a job is to all parts: what is asked for, states, shards, their outcomes, and costs. Values, without I/O."""
