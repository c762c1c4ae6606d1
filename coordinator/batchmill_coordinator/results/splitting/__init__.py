"""Cuts the results of a stage into the shards of a next one that cannot take them anywhere."""
