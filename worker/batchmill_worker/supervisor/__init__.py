"""The parent process of all slots of a machine."""
