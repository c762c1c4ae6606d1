"""Reading, writing and merging results and manifests."""
