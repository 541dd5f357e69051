#!/bin/bash

# Parameters
#SBATCH --account='lab 7'
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --job-name=mice-train
#SBATCH --mem=64GB
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=RUN/logs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=1440

# setup
export SRUN_CPUS_PER_TASK=8

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RUN/logs/%j_%t_log.out --kill-on-bad-exit=1 sh -c 'trap "" USR2 TERM; exec "$@"' sh env PYTHONPATH=RUN/code OMP_NUM_THREADS=8 MKL_NUM_THREADS=8 OPENBLAS_NUM_THREADS=8 PYTHON -P -u -m submitit.core._submit RUN/logs
