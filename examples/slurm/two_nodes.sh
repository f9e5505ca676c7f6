#!/bin/sh
# Two machines, under SLURM: sbatch examples/slurm/two_nodes.sh --config configs/demo.yaml
# Every task of the step is a rank. The run's folder is written by the first one alone; the model's
# folder must be readable on every machine, under the same name.
#SBATCH --job-name=long-take
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00
# Two minutes before the time is up the ranks are told to end: they close the files and leave with 75.
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

srun longtake predict --output "out/$SLURM_JOB_ID" --resume auto \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" --trainer.num_nodes "$SLURM_JOB_NUM_NODES" "$@"
status=$?
test $status -ne 75 || scontrol requeue "$SLURM_JOB_ID" # to go on where it was
exit $status
