"""What the ledger keeps, and how it is written: keys, records, values as text, and the version of it all."""
