#!/usr/bin/env bash
# Runs everything on drawn faces: images -> records -> training -> evaluation -> frozen
# graph -> predictions.  Takes a few minutes on 2 cores.  If it was interrupted, run it
# again: it continues.
#   examples/demo.sh [DIRECTORY]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-demo}

say() { printf '\n--- %s\n' "$*"; }

say "1. draw faces, in folders like those of AFAD: AGE/GENDER/PHOTO-FACE.jpg"
afad-make-sample --output_dir="$out/faces" --num_images=2000

say "2. write records"
afad-write-records --data_dir="$out/faces" --output_dir="$out/records" --image_size=64

say "3. check every record"
afad-inspect-records --records_dir="$out/records" --verify | tail -1

say "4. train a small network on age and gender"
afad-train --records_dir="$out/records" --run_dir="$out/run" --task=age_gender \
	--backbone=small_cnn --weights=none --epochs=14 --global_batch_size=64

say "5. evaluate the network on faces that it has not seen"
afad-evaluate --run_dir="$out/run"

say "6. freeze the network, and compare the graph with the model"
afad-freeze --run_dir="$out/run" --records_dir="$out/records" \
	--output_dir="$out/graph" --output_name=faces

say "7. predict with the frozen graph"
mapfile -t some < <(find "$out/faces" -name '*.jpg' | sort | awk 'NR % 250 == 1')
afad-predict --graph="$out/graph/faces.pb" "${some[@]}"

say "8. show everything on one page"
afad-report --records_dir="$out/records" --run_dir="$out/run" --graph="$out/graph/faces.pb"

cat <<END

--- done
records:       $out/records  (pictures: $out/records/samples.png, age_gender.png)
history:       $out/run/history.png
frozen graph:  $out/graph/faces.pb
END
python - "$out/run/metrics.json" <<'END'
import json
import sys

metrics = json.load(open(sys.argv[1]))
constant = metrics["constant"]
print(f"test accuracy: {metrics['accuracy']:.3f}  (constant predictor {constant['accuracy']:.3f})")
print(f"test MAE:      {metrics['mae']:.2f} years  (constant predictor {constant['mae']:.2f} years)")
END
printf 'report:        %s\n' "$out/run/report.html"
