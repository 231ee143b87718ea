#!/bin/sh
# The paper's models at full size, with random weights in bf16, on one GPU; needs no network.
#
#   benchmarks/gpu.sh [FOLDER] [OPTION]...
#
# FOLDER gets a table (.txt) and a document (.json) for each model, and paper.json, which sets our
# times to first token beside the paper's tables. Options go to every `tokenreduce bench`.
# SUFFIX=-tiny takes the narrow shapes instead: so the script can be tried without a GPU.
set -eu
cd "$(dirname "$0")/.."
out=${1:-gpu-results}
[ $# -gt 0 ] && shift
python=${PYTHON:-python}
suffix=${SUFFIX:-}
mkdir -p "$out"

bench() {
    name=$1 model=$2
    shift 2
    "$python" -m tokenreduce bench "$model$suffix" "$@" >"$out/$name.txt"
    cat "$out/$name.txt"
    tail -n 1 "$out/$name.txt" >"$out/$name.json"
}

bench pllava-7b llama-7b "$@"
bench vila-8b llama3-8b "$@"
bench longva-7b qwen2-7b "$@"
bench vila-40b yi-34b --reducer vas --reducer 'vas*' --reducer fastv "$@"
bench vila-8b-sweep llama3-8b \
    --reducer vas-20-3 --reducer vas-30-3 --reducer vas-40-3 --reducer vas-50-3 \
    --reducer vas-20-4 --reducer vas-30-4 --reducer vas-40-4 --reducer vas-50-4 "$@"

"$python" benchmarks/paper_tables.py "$out"
