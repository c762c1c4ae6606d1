"""The row cache: results of rows that were computed before, found by what the rows are."""
