"""What the ledger keeps for workers: who is there, their leases, what they have learned, and the row cache."""
