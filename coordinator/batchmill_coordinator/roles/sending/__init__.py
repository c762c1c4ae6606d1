"""The role that sends messages to others."""
