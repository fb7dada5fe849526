"""`launcher=slurm`: arrays of SLURM jobs."""
