"""Which files a source names, and opening them."""
