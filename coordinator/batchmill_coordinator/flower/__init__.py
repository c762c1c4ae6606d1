"""The start of Flower."""
