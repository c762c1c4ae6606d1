"""Speed and memory of Batchmill beside its peers: `make bench`. `docs/benchmarks.md` tells how each is measured."""
