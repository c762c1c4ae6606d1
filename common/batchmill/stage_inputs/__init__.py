"""How a stage reads the results of the one before it, where it does not read them as they are."""
