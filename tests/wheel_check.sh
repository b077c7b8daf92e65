#!/usr/bin/env bash
# Builds the wheel, installs it without any extra in a new environment, runs every command
# with --help and with a wrong flag, and then the whole flow of the README.
#   wheel_check.sh BUILD_PYTHON BASE_PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
build_python=$1 base_python=$2
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

"$build_python" -m build --wheel --no-isolation --outdir "$place/dist" . >"$place/build.log" 2>&1 ||
	{ cat "$place/build.log"; exit 1; }
"$base_python" -m venv "$place/venv"
"$place/venv/bin/python" -m pip --disable-pip-version-check --quiet install \
	-c constraints.txt "$place"/dist/*.whl

cd "$place" # Python would import the source tree from its own directory.
count=0
for command in "$place"/venv/bin/afad-*; do
	"$command" --help | grep -q "usage: $(basename "$command")" ||
		{ echo "$command --help does not print its usage"; exit 1; }
	status=0
	"$command" --no_such_flag 2>"$place/error" || status=$?
	if [ "$status" != 1 ] || [ "$(wc -l <"$place/error")" != 1 ]; then
		echo "$command --no_such_flag: not one line and status 1, but status $status:"
		cat "$place/error"
		exit 1
	fi
	count=$((count + 1))
done
[ "$count" -ge 9 ] || { echo "only $count commands are installed"; exit 1; }
echo "the wheel installs, and its $count commands run"

# What the README promises needs no extra.
"$place/venv/bin/python" -m pip --disable-pip-version-check check
if "$place/venv/bin/python" -c 'import cv2' 2>/dev/null; then
	echo "OpenCV is installed: this is not the plain installation"
	exit 1
fi
export PATH="$place/venv/bin:$PATH" CUDA_VISIBLE_DEVICES=-1
quietly() {
	"$@" >"$place/output" 2>&1 || { echo "failed: $*"; cat "$place/output"; exit 1; }
}
quietly afad-make-sample --output_dir=faces --num_images=120
for format in hdf5 tfrecord; do
	quietly afad-write-records --data_dir=faces --output_dir="$format" \
		--format="$format" --image_size=64
	quietly afad-inspect-records --records_dir="$format" --verify
done
quietly afad-train --records_dir=tfrecord --run_dir=run --backbone=small_cnn \
	--stage=tuning --epochs=1 --global_batch_size=16
quietly afad-evaluate --run_dir=run
quietly afad-freeze --run_dir=run --records_dir=tfrecord --output_dir=graph \
	--output_name=faces
quietly afad-predict --graph=graph/faces.pb faces/*/111
echo "without any extra it writes, verifies, trains, evaluates, freezes and predicts"
