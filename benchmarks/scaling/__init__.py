"""A simulator of pools that are scaled: the product's decisions beside other policies, on traces of arriving work."""
