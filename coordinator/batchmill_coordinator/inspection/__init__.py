"""Child processes that read what users send or name: native code may crash, hang or use up memory there, not here."""
