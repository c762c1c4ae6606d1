"""Plans: what a job will take, from a sample of its rows that workers run before it is submitted."""
