#!/bin/sh
# Two machines of eight devices each, under SLURM: sbatch examples/slurm/two_nodes.sh
#SBATCH --job-name=long-take
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00

# Every task of the step is a rank. The run's folder is written by the first one alone; the model's
# folder must be readable on every machine, under the same name.
srun longtake predict --config configs/demo.yaml --output "out/$SLURM_JOB_ID" \
    --trainer.devices 8 --trainer.num_nodes 2
