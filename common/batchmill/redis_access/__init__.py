"""How Batchmill reaches Redis: the address, what error replies mean, the connections. For ledger and broker alike."""
