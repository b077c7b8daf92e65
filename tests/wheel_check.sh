#!/usr/bin/env bash
# Builds the wheel, installs it in a new environment, and runs every command with --help
# and with a wrong flag.
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
# Without the extra `fast`, TensorFlow encodes the JPEGs.
"$place/venv/bin/afad-make-sample" --output_dir=faces --num_images=3 2>/dev/null
echo "the wheel installs, and its $count commands run"
