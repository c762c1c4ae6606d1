"""How many rows go to the device at once: cost model, memory ceiling, controller and packing, all without I/O."""
