"""The folder of a sweep: its jobs, their names and status, its table, and the GPU of each job. Without Hydra."""
