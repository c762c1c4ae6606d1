"""The devices of a machine: found (an inventory), chosen (`selection`), and given to slots (`placement`)."""
