"""The devices of a machine: find them (an inventory), choose among them (`selection`), assign them (`placement`)."""
