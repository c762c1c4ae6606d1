"""Text formats: how text is divided into records, and how records become typed values."""
