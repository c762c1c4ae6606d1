"""The stores that a sink can write to and a search can read: one module each, behind `Store`."""
