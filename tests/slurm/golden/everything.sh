#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --array=0-3%4
#SBATCH --comment='mouse'"'"'s views'
#SBATCH --constraint='h200&ib'
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --job-name=mice-train
#SBATCH --licenses=scratch:1
#SBATCH --mail-type=END
#SBATCH --mail-user=me@example.org
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=RUN/logs/%A_%a_0_log.out
#SBATCH --partition=gpu,low
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --reservation=course
#SBATCH --signal=USR2@180
#SBATCH --spread-job
#SBATCH --switches=1
#SBATCH --time=1440

# setup
aftermath() {
  trap "" TERM USR2
  [ "$ended" = 0 ] || env PYTHONPATH=RUN/code PYTHON -P -m slurm.aftermath RUN/logs 3
  exit "$ended"
}
ended=143
trap aftermath EXIT
export SRUN_CPUS_PER_TASK=8

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RUN/logs/%A_%a_%t_log.out --kill-on-bad-exit=1 sh -c 'env --block-signal=USR2,TERM true 2>/dev/null && exec env --block-signal=USR2,TERM "$@"; exec env "$@"' sh PYTHONPATH=RUN/code OMP_NUM_THREADS=8 MKL_NUM_THREADS=8 OPENBLAS_NUM_THREADS=8 PYTHON -P -u -m slurm.guard RUN/logs


# teardown
ended=$?
