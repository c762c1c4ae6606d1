"""What a coordinator counts, and what the leading one reads from the ledger."""
