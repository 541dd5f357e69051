"""One module a job and the command line; joins `mvdiff` (tensors, files) and `slurm` (queues)."""
