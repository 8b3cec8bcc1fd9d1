"""What is in the folder of a sweep: its jobs, their status, their table."""
