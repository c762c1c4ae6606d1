"""The engines behind the seam of `generation.base`, and what only they need."""
