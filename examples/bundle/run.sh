#!/usr/bin/env bash
# Unpacks the bundle next to this file, installs it without network, and runs
# afad-gpu-check.  A second call does not unpack or install again.
#   bash run.sh [FLAGS OF afad-gpu-check ...]
#   PYTHON=python3.11    the Python to use, of the version that the bundle was made with
#   AFAD_HOME=DIR        where everything goes; default: the directory "afad" here
set -euo pipefail

fail() {
	echo "run.sh: error: $*" >&2
	exit 1
}

bundle=$(cd "$(dirname "$0")" && pwd)
home=${AFAD_HOME:-$PWD/afad}
mkdir -p "$home"
home=$(cd "$home" && pwd)
content=$home/content

if [[ ! -e $home/unpacked ]]; then
	[[ -e $bundle/SHA256SUMS ]] || fail "$bundle/SHA256SUMS does not exist: copy the whole bundle"
	(cd "$bundle" && sha256sum --quiet --check SHA256SUMS) ||
		fail "a part of the bundle is missing or damaged: copy it again"
	cat "$bundle"/afad-bundle.tar.part-* | tar -C "$home" -xf -
	touch "$home/unpacked"
fi
# shellcheck source=/dev/null  # It is in the bundle.
source "$content/bundle.env"

if [[ ! -e $home/installed ]]; then
	python=${PYTHON:-python$python_version}
	found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
		fail "$python does not run: install Python $python_version, or name it: PYTHON=/path/to/python"
	[[ $found == "$python_version" ]] ||
		fail "the bundle is for Python $python_version, and $python is Python $found: name another PYTHON"
	# Without pip, because distributions may lack what venv needs to install it.
	"$python" -m venv --clear --without-pip "$home/venv"
	pip=$(echo "$content"/wheels/pip-*.whl)/pip
	"$home/venv/bin/python" "$pip" install --quiet --disable-pip-version-check \
		--no-index --find-links "$content/wheels" "$content/wheels/$wheel[$extras]"
	touch "$home/installed"
fi

exec "$home/venv/bin/afad-gpu-check" --data_dir="$content/faces" --output_dir="$home/gpu_check" "$@"
