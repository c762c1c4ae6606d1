"""Speed and memory of Batchmill compared with its peers: `make bench`. `docs/benchmarks.md` describes the methods."""
