"""The operator contract; the operators themselves are part of the worker."""
