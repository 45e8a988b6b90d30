#!/usr/bin/env bash
# demo.sh FAIRWAY [DIR] [--section.key value …]: the whole pipeline on text from Debian packages, in a
# few minutes on two cores. FAIRWAY is the built program; everything it makes lies in DIR (demo/).
# Finished parts are kept: a second call continues where the first stopped. Recipe keys given after DIR
# override recipes/demo.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
fairway=$(realpath "${1:?usage: demo.sh FAIRWAY [DIR] [--section.key value …]}")
dir=${2:-demo}
shift $(($# < 2 ? $# : 2))

say() { printf '\n== %s\n' "$*"; }
start=$SECONDS

say "text: entries of dict-foldoc, sections of python3.11-doc"
[[ -s $dir/text.jsonl ]] || scripts/demo-corpus.sh "$dir/text.jsonl"

say "tokenizer: 1024 pieces"
[[ -s $dir/demo.model ]] ||
  "$fairway" tokenizer train --input "$dir/text.jsonl" --vocab-size 1024 --out "$dir/demo.model"

say "shards: the first 200 documents are held out"
[[ -s $dir/shards/demo.json ]] ||
  "$fairway" data build --input "$dir/text.jsonl" --tokenizer "$dir/demo.model" \
    --out "$dir/shards" --name demo --val-docs 200

say "train, score, quantize, score, score with test-time training"
"$fairway" run --recipe recipes/demo.toml --out "$dir/run" \
  --data.train "$dir/shards/demo_train_*.bin" --data.val "$dir/shards/demo_val_*.bin" \
  --data.tokenizer "$dir/demo.model" "$@"

say "done in $((SECONDS - start)) s; try: $fairway inspect $dir/run/model.fairway"
