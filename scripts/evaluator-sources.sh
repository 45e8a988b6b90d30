#!/bin/sh
# The sources that `fairway eval` is built from. Without arguments lists them, one a line; with `size`
# prints the bytes of their tar after xz -9e: the part of the artifact's budget that code takes.
# Whole folders: what training, calibration and tokenizer making add to them is counted too.
set -eu
export LC_ALL=C
cd "$(dirname "$0")/.."

list() {
  for folder in base io device comm data ops model quant eval; do
    find "src/fairway/$folder" -type f
  done | sort
  for file in CMakeLists.txt cmake/fairway.cmake src/fairway/CMakeLists.txt apps/fairway/CMakeLists.txt \
    apps/fairway/commands.h apps/fairway/main.cpp apps/fairway/eval.cpp apps/fairway/status_line.h; do
    if [ -f "$file" ]; then echo "$file"; fi
  done
}

size() {
  list | tar --create --file - --files-from - --mtime=@0 --owner=0 --group=0 --numeric-owner \
    --mode=644 --format=ustar | "${XZ:-xz}" -9e --threads=1 | wc -c
}

case "${1-}" in
  "") list ;;
  size) size ;;
  header) # for the build: the size as C++ in the file $2
    printf '#include <cstdint>\ninline constexpr uint64_t kEvaluatorSourceBytes = %s;\n' "$(size)" >"$2"
    ;;
  *) echo "usage: $0 [size]" >&2; exit 2 ;;
esac
