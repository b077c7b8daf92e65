#!/usr/bin/env bash
# Builds the wheel and, for each EXTRA, installs it with that extra in a new environment
# and does there what the extra promises.  `bare` is the wheel without any extra: every
# command with --help and with a wrong flag, and then the whole flow of the README; it
# takes the pinned versions.  `latest` is the same with the newest ones.
#   wheel_check.sh BUILD_PYTHON BASE_PYTHON [EXTRA...]
#   EXTRA: bare (the default), latest, fast, faces, remote, io, tfds, export, beam,
#   tensorboard, croissant, keras-hub
set -euo pipefail
cd "$(dirname "$0")/.."
build_python=$1 base_python=$2
shift 2
[ "$#" -gt 0 ] || set -- bare
for extra in "$@"; do
	case $extra in
	bare | latest | fast | faces | remote | io | tfds | export | beam | tensorboard | croissant | keras-hub) ;;
	*) echo "no such extra: $extra"; exit 1 ;;
	esac
done
constraints=$PWD/constraints.txt
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export CUDA_VISIBLE_DEVICES=-1

"$build_python" -m build --wheel --no-isolation --outdir "$place/dist" . >"$place/build.log" 2>&1 ||
	{ cat "$place/build.log"; exit 1; }
cd "$place" # Python would import the source tree from its own directory.
wheel=$(echo "$place"/dist/*.whl)

fail() {
	echo "$*"
	exit 1
}

quietly() {
	"$@" >"$work/output" 2>&1 || { echo "failed: $*"; cat "$work/output"; exit 1; }
}

# as_json COMMAND FLAG...: with --json, standard output is lines of JSON and nothing else.
as_json() {
	local command=$1
	shift
	"$command" --json "$@" >"$work/result" 2>"$work/output" ||
		{ echo "failed: $command --json $*"; cat "$work/output"; exit 1; }
	python -c 'import json; assert [json.loads(line) for line in open("result")]' ||
		{ cat "$work/result"; fail "$command --json prints something else"; }
}

# The wheel with an extra (or none) in an environment of its own, first on the PATH.
install() {
	work=$place/$1
	mkdir "$work"
	cd "$work"
	"$base_python" -m venv "$work/venv"
	PATH=$work/venv/bin:$base_path
	case $1 in
	bare) set -- -c "$constraints" "$wheel" ;;
	# The newest versions, as users get them.
	latest) set -- "$wheel" ;;
	*) set -- "$wheel[$1]" ;;
	esac
	quietly python -m pip --disable-pip-version-check --quiet install "$@"
	python -m pip --disable-pip-version-check check
}
base_path=$PATH

faces() {
	quietly afad-make-sample --output_dir=faces --num_images=200
}

# write DIRECTORY FLAG...
write() {
	local directory=$1
	shift
	quietly afad-write-records --data_dir=faces --output_dir="$directory" \
		--image_size=64 "$@"
}

# train RECORDS FLAG...
train() {
	local records=$1
	shift
	quietly afad-train --records_dir="$records" --run_dir=run --backbone=small_cnn \
		--stage=tuning --epochs=1 --global_batch_size=16 "$@"
}

# The doctor tries each extra; its line begins with "ok" if that works.
doctor_agrees() {
	afad-doctor >doctor 2>"$work/output" || { cat doctor "$work/output"; exit 1; }
	grep -q "^ok *extra $1 " doctor || { cat doctor; fail "afad-doctor: $1 is not ok"; }
}

check_bare() {
	local count=0 command status
	for command in "$work"/venv/bin/afad-*; do
		"$command" --help | grep -q "usage: $(basename "$command")" ||
			fail "$command --help does not print its usage"
		status=0
		"$command" --no_such_flag 2>"$work/error" || status=$?
		if [ "$status" != 1 ] || [ "$(wc -l <"$work/error")" != 1 ]; then
			echo "$command --no_such_flag: not one line and status 1, but status $status:"
			cat "$work/error"
			exit 1
		fi
		count=$((count + 1))
	done
	[ "$count" -ge 9 ] || fail "only $count commands are installed"
	echo "the wheel installs, and its $count commands run"
	# What the README promises needs no extra.
	if python -c 'import cv2' 2>/dev/null; then
		fail "OpenCV is installed: this is not the plain installation"
	fi
	as_json afad-make-sample --output_dir=faces --num_images=200
	for format in hdf5 tfrecord; do
		as_json afad-write-records --data_dir=faces --output_dir="$format" \
			--image_size=64 --format="$format"
		as_json afad-inspect-records --records_dir="$format" --verify
	done
	as_json afad-train --records_dir=tfrecord --run_dir=run --backbone=small_cnn \
		--stage=tuning --epochs=1 --global_batch_size=16
	as_json afad-evaluate --run_dir=run
	as_json afad-freeze --run_dir=run --records_dir=tfrecord --output_dir=graph \
		--output_name=faces
	as_json afad-predict --graph=graph/faces.pb faces/*/111
	as_json afad-report --records_dir=tfrecord --run_dir=run --graph=graph/faces.pb
	as_json afad-cards --records_dir=tfrecord --run_dir=run --graph=graph/faces.pb
	as_json afad-benchmark-input --records_dir=hdf5 --batch_size=16
	as_json afad-doctor
	[ -z "$(afad-inspect-records -v=-1 --records_dir=hdf5 2>&1 >/dev/null)" ] ||
		fail "-v=-1 does not silence the log"
	echo "without any extra it writes, verifies, trains, evaluates, freezes, predicts and reports"
}

check_latest() {
	check_bare
}

check_fast() {
	faces
	write records
	train records --engine=mapped
	grep -q "input: mapped engine for train" "$work/output" ||
		{ cat "$work/output"; fail "the mapped engine does not decode"; }
	quietly afad-freeze --run_dir=run --output_dir=graph --output_name=faces
	everything_written fast
	quietly python -m pip --quiet uninstall --yes opencv-python-headless isal
	everything_written plain
	diff -r --exclude=writer_log.json fast plain ||
		fail "without the extra the commands write other bytes"
	echo "the mapped engine decodes images; without the extra all bytes are the same"
}

# Drawn faces, records in each encoding, and predictions, in the folder $1.
everything_written() {
	local encoding
	quietly afad-make-sample --output_dir="$1/faces" --num_images=60 --seed=7
	for encoding in original jpeg raw; do
		quietly afad-write-records --data_dir=faces --output_dir="$1/$encoding" \
			--image_encoding="$encoding" --image_size=40
	done
	quietly afad-predict --json --graph=graph/faces.pb faces/*/111
	grep '^{' "$work/output" >"$1/predictions"
}

# Nothing may be downloaded: without a network, too, a photo without a face says so.
check_faces() {
	cat >photo.py <<-'EOF'
		import numpy as np
		from PIL import Image

		Image.fromarray(np.full((300, 400, 3), 90, np.uint8)).save("photo.png")
	EOF
	python photo.py
	faces
	write records
	train records
	quietly afad-freeze --run_dir=run --records_dir=records --output_dir=graph \
		--output_name=faces
	local offline=
	if unshare -rn true 2>/dev/null; then offline="unshare -rn"; fi
	quietly $offline "$(command -v afad-predict)" --graph=graph/faces.pb --find_faces photo.png
	grep -q "no face in photo.png" "$work/output" ||
		{ cat "$work/output"; fail "a photo without a face is not named"; }
	echo "faces are looked for${offline:+ without a network}"
}

# A whole run on S3, at a server on this machine.
check_remote() {
	quietly python -m pip --disable-pip-version-check --quiet install 'moto[server]'
	export AWS_ACCESS_KEY_ID=key AWS_SECRET_ACCESS_KEY=secret \
		AWS_DEFAULT_REGION=us-east-1 AWS_EC2_METADATA_DISABLED=true
	local port server
	port=$(python -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')
	export AWS_ENDPOINT_URL=http://127.0.0.1:$port XDG_CACHE_HOME=$work/cache
	moto_server -H 127.0.0.1 -p "$port" >/dev/null 2>&1 &
	server=$!
	trap 'kill "$server"; rm -rf "$place"' EXIT
	quietly python -c 'import time, boto3
for trial in range(120):
    try:
        boto3.client("s3").create_bucket(Bucket="faces")
        break
    except Exception:
        time.sleep(0.5)'
	faces
	write s3://faces/records
	quietly afad-inspect-records --records_dir=s3://faces/records --verify
	train s3://faces/records
	quietly afad-evaluate --run_dir=run
	quietly afad-freeze --run_dir=run --output_dir=s3://faces/graph --output_name=faces
	quietly afad-predict --graph=s3://faces/graph/faces.pb faces/*/111
	kill "$server"
	trap 'rm -rf "$place"' EXIT
	unset AWS_ENDPOINT_URL XDG_CACHE_HOME
	echo "S3 is written, verified, trained from, and predicted with"
}

check_io() {
	faces
	write gzip --format=hdf5 --hdf5_compression=gzip
	# More than 1 MiB of pixels: only tensorflow-io streams them.
	train gzip --engine=graph --memory_budget_mib=1
	grep "^ok *file systems" doctor | grep -q "s3://" || fail "s3:// is not registered"
	echo "s3:// is registered, and compressed HDF5 is streamed"
}

check_tfds() {
	faces
	write records
	cat >open.py <<-'EOF'
		import json
		import tensorflow_datasets as tfds

		builder = tfds.builder_from_directory("records")
		splits = json.load(open("records/manifest.json"))["splits"]
		for name, split in splits.items():
		    examples = list(tfds.as_numpy(builder.as_dataset(split=name)))
		    assert len(examples) == split["num_examples"], name
		    for example in examples:
		        assert example["image"]["encoded"].shape[2] == 3
		        assert 15 <= example["label"]["age"] <= 72
	EOF
	quietly python open.py
	echo "tensorflow_datasets opens the records"
}

check_export() {
	faces
	write records
	train records
	quietly afad-freeze --run_dir=run --records_dir=records --output_dir=graph \
		--output_name=faces --onnx --tflite
	quietly afad-predict --graph=graph/faces.onnx faces/*/111
	quietly afad-predict --graph=graph/faces.tflite faces/*/111
	echo "ONNX and TFLite files are written and predict"
}

check_beam() {
	faces
	write local
	write beam --runner=beam
	cmp local/manifest.json beam/manifest.json
	echo "Apache Beam writes the same data set"
}

check_croissant() {
	faces
	write records
	quietly afad-cards --records_dir=records --with_images
	cat >open.py <<-'EOF'
		import json
		import mlcroissant

		written = json.load(open("records/manifest.json"))["written"]
		faces = mlcroissant.Dataset("records/croissant.json")
		for name in ("records", "images"):
		    assert len(list(faces.records(name))) == written, name
	EOF
	quietly python open.py
	doctor_agrees croissant
	echo "mlcroissant loads the records"
}

check_keras_hub() {
	faces
	write records
	cat >preset.py <<-'EOF'
		import keras_hub

		keras_hub.models.ViTBackbone((64, 64, 3), 16, 2, 2, 16, 32).save_to_preset("vit")
		converter = keras_hub.layers.ViTImageConverter(scale=1 / 127.5, offset=-1.0)
		converter.save_to_preset("vit")
	EOF
	quietly python preset.py
	quietly afad-train --records_dir=records --run_dir=run --backbone=keras_hub:vit \
		--stage=tuning --epochs=1 --global_batch_size=16
	quietly afad-freeze --run_dir=run --records_dir=records --output_dir=graph \
		--output_name=faces
	quietly afad-predict --graph=graph/faces.pb faces/*/111
	echo "a ViT of keras-hub trains, and is frozen"
}

check_tensorboard() {
	faces
	write records
	train records
	tensorboard --inspect --logdir=run/tensorboard >inspected 2>"$work/output" ||
		{ cat "$work/output"; exit 1; }
	grep -q loss inspected ||
		{ cat inspected; fail "TensorBoard finds no events"; }
	echo "TensorBoard reads the events of a training"
}

for extra in "$@"; do
	start=$SECONDS
	install "$extra"
	case $extra in
	bare | latest) ;;
	*) doctor_agrees "$extra" ;;
	esac
	"check_${extra//-/_}"
	python -c 'import importlib.metadata as m, sys
found = ["Python " + sys.version.split()[0]]
for name in ("tensorflow", "keras", "numpy", "protobuf"):
    found.append(f"{name} {m.version(name)}")
print(", ".join(found))'
	echo "$extra: works, in $((SECONDS - start)) s"
	cd "$place"
	rm -rf "${place:?}/$extra"
done
