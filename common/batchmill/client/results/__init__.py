"""What a job leaves: results page by page and as data frames, and its failed rows."""
