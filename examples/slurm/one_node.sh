#!/bin/sh
# One machine of eight devices, under SLURM: sbatch examples/slurm/one_node.sh
# longtake starts the eight ranks by itself: no srun is needed.
#SBATCH --job-name=long-take
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --time=04:00:00

longtake predict --config configs/demo.yaml --output "out/$SLURM_JOB_ID" --trainer.devices 8
