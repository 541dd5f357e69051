#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=4
#SBATCH --job-name=mice-train
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
export SRUN_CPUS_PER_TASK=8

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output RUN/logs/%j_%t_log.out --kill-on-bad-exit=1 --mpi=none sh -c 'env --block-signal=USR2,TERM true 2>/dev/null && exec env --block-signal=USR2,TERM "$@"; exec env "$@"' sh PYTHONPATH=RUN/code OMP_NUM_THREADS=8 MKL_NUM_THREADS=8 OPENBLAS_NUM_THREADS=8 NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0 'MVDIFF_SCRATCH=/local/$USER' HDF5_USE_FILE_LOCKING=FALSE 'QUOTED=a $HOME '"'"'b'"'"'' ON=true EMPTY= apptainer exec --nv '/images/mouse lab.sif' python3 -P -u -m slurm.guard RUN/logs


# teardown
ended=$?
