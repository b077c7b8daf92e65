#!/usr/bin/env bash
# Trains on 4 nodes with 8 GPUs each; stops before the time limit, and requeues itself.
#   sbatch examples/slurm/train_four_nodes.sh RECORDS_DIR RUN_DIR [FLAGS OF afad-train ...]
# RUN_DIR lies where every node may be the first one: on a shared file system.
#SBATCH --job-name=afad-train
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=08:00:00
# SIGUSR1 to the workers 5 minutes before the limit: all save at one step and end with
# status 75.
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

[[ $# -ge 2 ]] || {
	echo "usage: sbatch examples/slurm/train_four_nodes.sh RECORDS_DIR RUN_DIR [FLAGS OF afad-train ...]" >&2
	exit 1
}
records=$1 run=$2
shift 2

# The shell waits for the training, whatever signal it gets itself; the handler, unlike
# an ignored signal, is not handed on to the command.
trap : TERM USR1

# One worker on each node: afad-train sees that its job step has several tasks.  The
# batch is the same for any number of nodes that divides it, so that the run may
# continue on 2 of them, or on 1.
status=0
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --kill-on-bad-exit=0 \
	afad-train --records_dir="$records" --run_dir="$run" --task=age_gender \
	--backbone=VGG19 --stage=recipe --global_batch_size=1024 \
	--checkpoint_steps=250 "$@" || status=$?

case $status in
0)
	afad-evaluate --run_dir="$run"
	afad-freeze --run_dir="$run" --output_dir="$run/graph" --output_name=faces
	;;
75) # Stopped, with everything saved: the same job continues.
	echo "requeueing"
	scontrol requeue "$SLURM_JOB_ID"
	;;
69 | 137) # A worker was lost, or killed: on from the last checkpoint, a few times.
	if ((${SLURM_RESTART_COUNT:-0} >= 5)); then
		exit "$status"
	fi
	echo "requeueing after the loss of a worker"
	scontrol requeue "$SLURM_JOB_ID"
	;;
*)
	exit "$status"
	;;
esac
