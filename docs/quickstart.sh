#!/usr/bin/env bash
# The quickstart of the README on the embedded digits model: bash docs/quickstart.sh FOLDER
# Needs acm-export on the PATH with the extras export, train, cpu and demo; takes some minutes.
set -euo pipefail
checkout=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "${1:?names no folder: bash docs/quickstart.sh FOLDER}" && cd "$1"
cp -r "$checkout/acm_export/demo/data/digits-dense" my-vit
PYTHONPATH="$checkout/examples" python -c '
from importlib import import_module
from pathlib import Path
import_module("02_one_file_for_every_budget").save_images(Path())'

run() { echo "\$ acm-export $*"; acm-export "$@"; }
run acmize my-vit --data train.npz --eval-data test.npz -o my-acm
run export my-acm -o my-acm.onnx
run calibrate my-acm.onnx --data train.npz --budgets 0.25,0.5,0.75 --samples 400 --budget-input -o any-budget.onnx
run set-budget any-budget.onnx 0.5
run latency any-budget.onnx --budgets 0.25,0.5,1 --data test.npz --batch 8 --duration 2
