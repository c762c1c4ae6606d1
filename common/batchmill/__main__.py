"""`python -m batchmill` is the command `batchmill`."""

from batchmill.cli import main

main()
