"""What tests share: services and clusters to run against, models of the ledger, helpers to wait."""
