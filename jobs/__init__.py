"""One module a job and the command line; joins `mvdiff` (tensors, files) and `slurm` (queues)."""

JOBS = ("synth", "pack", "train", "generate", "evaluate", "verify", "export")
