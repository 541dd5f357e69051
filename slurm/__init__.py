"""Queues: submission through submitit, signals, requeue, states, and a SLURM of one machine for tests."""
