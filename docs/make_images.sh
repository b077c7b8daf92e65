#!/usr/bin/env bash
# Makes the pictures in docs/images with the commands, from drawn faces
# (`make docs-images`).
#   docs/make_images.sh [DIRECTORY FOR THE DATA]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-demo}

# Uses what `make demo` has left, because training takes minutes.
[ -e "$out/graph/faces.json" ] || examples/demo.sh "$out"

mkdir -p docs/images
afad-inspect-records --records_dir="$out/records" --split=test \
	--histogram=docs/images/age_gender.png >"$out/counts"
cp "$out/run/history.png" docs/images/history.png
afad-evaluate --run_dir="$out/run" --output_dir="$out/evaluation" >"$out/evaluation.txt"
cp "$out/evaluation/error_by_age.png" docs/images
rm -rf "$out/preview"
afad-train --records_dir="$out/records" --run_dir="$out/preview" --backbone=small_cnn \
	--weights=none --stage=tuning --epochs=1 --augment_preview
cp "$out/preview/augmentation.png" docs/images/augmentation.png
mapfile -t some < <(find "$out/faces" -name '*.jpg' | sort | awk 'NR % 100 == 7')
afad-predict --graph="$out/graph/faces.pb" --sheet=docs/images/predictions.png "${some[@]}"

# The page to look at, on light and on dark ground, where Chromium is installed.
if command -v chromium >/dev/null; then
	shoot() {
		chromium --headless --no-sandbox --disable-gpu --hide-scrollbars "$@" 2>/dev/null
	}
	afad-report --records_dir="$out/records" --output="$out/light.html"
	afad-report --run_dir="$out/run" --noimages --output="$out/dark.html"
	shoot --window-size=1180,1840 --screenshot=docs/images/report_light.png \
		"file://$(realpath "$out/light.html")"
	shoot --window-size=1180,1040 --force-dark-mode \
		--screenshot=docs/images/report_dark.png "file://$(realpath "$out/dark.html")"
fi

# Keeps each picture below 200 kB, so that the repository stays small: first with a
# palette of 256 colours, then by scaling down those that are still larger.
python - docs/images/*.png <<'END'
import os
import sys

from PIL import Image

for path in sys.argv[1:]:
    image = Image.open(path).convert("RGB")
    while True:
        image.quantize(256).save(path, optimize=True)
        size = os.path.getsize(path)
        if size < 200_000:
            break
        width, height = image.size
        image = image.resize((width * 7 // 8, height * 7 // 8), Image.Resampling.LANCZOS)
    print(f"{path}: {size:,} bytes")
END
