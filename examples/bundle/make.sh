#!/usr/bin/env bash
# Packs everything that a machine without network needs to run afad-gpu-check: wheels of
# this package, of TensorFlow and of everything else, and some drawn faces.
#   examples/bundle/make.sh PYTHON OUTPUT_DIR EXTRAS PART_MB
#   PYTHON: an environment of this package; the bundle is for its version and platform
#   EXTRAS: such as fast,cuda; without cuda, the bundle trains on the CPU only
#   PART_MB: largest size of a part of the archive, in megabytes
set -euo pipefail

[[ $# -eq 4 ]] || {
	echo "usage: examples/bundle/make.sh PYTHON OUTPUT_DIR EXTRAS PART_MB" >&2
	exit 1
}
python=$1 extras=$3 part_mb=$4
[[ $part_mb =~ ^[1-9][0-9]*$ ]] || {
	echo "PART_MB (BUNDLE_PART_MB) must be a number of megabytes from 1; got '$part_mb'" >&2
	exit 1
}
# Not resolved by realpath: that would leave the environment.
[[ $python == */* ]] && python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
mkdir -p "$2"
output=$(cd "$2" && pwd)
cd "$(dirname "$0")/../.."

place=$(mktemp -d "$output/.making-XXXXXX")
trap 'rm -rf "$place"' EXIT
content=$place/content
mkdir -p "$content/wheels"

"$python" -m build --wheel --no-isolation --outdir "$content/wheels" . >"$place/build.log" 2>&1 ||
	{ cat "$place/build.log" >&2; exit 1; }
wheel=$(echo "$content"/wheels/afad_tfdata-*.whl)
# pip itself is packed because an environment without network cannot get it.
"$python" -m pip --disable-pip-version-check --quiet download --only-binary=:all: \
	--dest "$content/wheels" --constraint constraints.txt "$wheel[$extras]" pip
"$python" bin/make_sample.py --output_dir="$content/faces" --num_images=600

cat >"$content/bundle.env" <<END
extras=$extras
python_version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
wheel=$(basename "$wheel")
END
rm -f "$output"/afad-bundle.tar.part-* "$output/SHA256SUMS"
cp examples/bundle/run.sh "$output/run.sh"
tar -C "$place" -cf - content |
	split --bytes="${part_mb}MB" --numeric-suffixes --suffix-length=3 - \
		"$output/afad-bundle.tar.part-"
(cd "$output" && sha256sum run.sh afad-bundle.tar.part-* >"$place/sums" && mv "$place/sums" SHA256SUMS)
echo "wrote $(find "$output" -name 'afad-bundle.tar.part-*' | wc -l) part(s) to $output," \
	"$(du -sh "$output" --exclude='.making-*' | cut -f1): copy the directory and run bash run.sh there"
