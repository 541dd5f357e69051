#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=12
#SBATCH --gpus-per-node=h200:4
#SBATCH --job-name=mice-train
#SBATCH --mem-per-gpu=120G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=RUN/logs/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@180
#SBATCH --time=1440

# setup
aftermath() {
  trap "" TERM USR2
  [ "$ended" = 0 ] || env PYTHONPATH=RUN/code PYTHON -P -m slurm.aftermath RUN/logs
  exit "$ended"
}
ended=143
trap aftermath EXIT
export SRUN_CPUS_PER_TASK=12

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RUN/logs/%j_%t_log.out --kill-on-bad-exit=1 sh -c 'env --block-signal=USR2,TERM true 2>/dev/null && exec env --block-signal=USR2,TERM "$@"; exec env "$@"' sh PYTHONPATH=RUN/code OMP_NUM_THREADS=12 MKL_NUM_THREADS=12 OPENBLAS_NUM_THREADS=12 PYTHON -P -u -m slurm.guard RUN/logs


# teardown
ended=$?
