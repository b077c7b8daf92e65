#!/usr/bin/env bash
# Writes records as a Slurm array: each task writes some shards, and a last job joins them.
#   examples/slurm/write_array.sh submit DATA_DIR OUTPUT_DIR TASKS
# Both directories must be on a file system that all nodes share.  After a failure, run
# the command again: shards that are already written are kept.
#SBATCH --job-name=afad-write
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

usage() {
	sed -n '2,5s/^# *//p' "$0" >&2
	exit 1
}

[[ $# -eq 4 ]] || usage
mode=$1 data=$2 out=$3 tasks=$4

# All tasks must have the same flags: a task with other flags is refused.
write() {
	afad-write-records --data_dir="$data" --output_dir="$out" --num_shards=64 \
		--num_workers="${SLURM_CPUS_PER_TASK:-0}" "$@"
}

# Prints the number of shards of all splits together, from the plan of the first task.
total() {
	python3 -c 'import json, sys; print(sum(json.load(open(sys.argv[1]))["num_shards"].values()))' \
		"$out/.work/plan.json"
}

case $mode in
submit)
	[[ -e $out/manifest.json ]] && { echo "$out is finished already"; exit 0; }
	write --shard_range=0:1 # Writes the plan and the first shard.
	array=$(sbatch --parsable --array="0-$((tasks - 1))" "$0" task "$data" "$out" "$tasks")
	# Runs even if tasks failed (afterany): it writes the shards that they did not write.
	sbatch --dependency="afterany:$array" "$0" join "$data" "$out" "$tasks"
	;;
task)
	first=$((SLURM_ARRAY_TASK_ID * $(total) / tasks))
	end=$(((SLURM_ARRAY_TASK_ID + 1) * $(total) / tasks))
	if ((first < end)); then
		write --shard_range="$first:$end"
	fi
	;;
join)
	write
	afad-inspect-records --records_dir="$out" --verify
	;;
*)
	usage
	;;
esac
