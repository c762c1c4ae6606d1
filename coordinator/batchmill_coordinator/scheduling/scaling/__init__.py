"""How many workers a pool needs."""
