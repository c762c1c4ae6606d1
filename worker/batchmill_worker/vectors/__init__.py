"""Exact comparisons of many vectors with many others: the tables they are from, and their products, block by block."""
