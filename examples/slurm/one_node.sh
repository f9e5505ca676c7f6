#!/bin/sh
# One machine, under SLURM: sbatch examples/slurm/one_node.sh --config configs/demo.yaml
# The step has one task, in which longtake starts a rank per device by itself.
#SBATCH --job-name=long-take
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
# Two minutes before the time is up the run is told to end: it closes its files and leaves with 75.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

srun longtake predict --output "out/$SLURM_JOB_ID" --resume auto \
    --trainer.devices "${SLURM_GPUS_ON_NODE:-1}" "$@"
status=$?
test $status -ne 75 || scontrol requeue "$SLURM_JOB_ID" # to go on where it was
exit $status
