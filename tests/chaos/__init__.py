"""A service that is broken at random while jobs run, and the comparison of every row afterwards."""
