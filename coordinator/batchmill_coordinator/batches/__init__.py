"""Files and batches of the OpenAI-compatible API: a batch is a job over the lines of a file."""
