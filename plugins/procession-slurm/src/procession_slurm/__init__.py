"""The start method ``slurm``: ranks that srun places."""
