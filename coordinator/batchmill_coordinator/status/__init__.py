"""What a user sees of a job."""
