"""What is checked before a job exists."""
