"""Documents to text. Files are parsed in child processes: a parser may crash, hang or use up memory there, not here."""
