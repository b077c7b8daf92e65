#!/usr/bin/env bash
# Trains on one node with 8 GPUs.  Stops before the time limit, and requeues itself.
#   sbatch examples/slurm/train_one_node.sh RECORDS_DIR RUN_DIR [FLAGS OF afad-train ...]
#SBATCH --job-name=afad-train
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
# Slurm sends SIGUSR1 to the training 5 minutes before the limit: the training saves and
# ends with status 75.
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
# AFAD_IMAGE=afad.sif runs the commands in a container (examples/container/afad.def).
set -euo pipefail

[[ $# -ge 2 ]] || {
	echo "usage: sbatch examples/slurm/train_one_node.sh RECORDS_DIR RUN_DIR [FLAGS OF afad-train ...]" >&2
	exit 1
}
records=$1 run=$2
shift 2

# The shell must wait for the training even if it gets the signal itself.  A handler that
# does nothing achieves that; `trap '' TERM` would make the command ignore the signal too.
trap : TERM USR1

# Empty, or what runs a command in the container; --nv gives it the GPUs.
container=()
[[ -z ${AFAD_IMAGE:-} ]] || container=(apptainer exec --nv \
	--bind="$(realpath -m "$records/.."),$(realpath -m "$run/..")" "$AFAD_IMAGE")

# The number of TensorFlow's threads on the host follows SLURM_CPUS_PER_TASK.  The global
# batch size is fixed, so that the run may continue on a node with fewer or more GPUs.
status=0
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
	"${container[@]}" afad-train --records_dir="$records" --run_dir="$run" --task=age_gender \
	--backbone=VGG19 --stage=recipe --global_batch_size=256 \
	--checkpoint_steps=1000 "$@" || status=$?

case $status in
0)
	"${container[@]}" afad-evaluate --run_dir="$run"
	"${container[@]}" afad-freeze --run_dir="$run" --output_dir="$run/graph" --output_name=faces
	;;
75) # Stopped with everything saved: the requeued job continues.
	echo "requeueing"
	scontrol requeue "$SLURM_JOB_ID"
	;;
*)
	exit "$status"
	;;
esac
