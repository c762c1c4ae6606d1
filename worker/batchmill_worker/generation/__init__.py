"""Language models: engines that many rows share, each row entering and leaving by itself."""
