#!/usr/bin/env bash
# demo-corpus.sh OUT.jsonl: real English text that Debian packages carry, as one JSON document a line.
#   dict-foldoc      each entry of the Free On-line Dictionary of Computing is a document
#   python3.11-doc   each section of the manual's sources is a document
# The order is shuffled, the same way every time. Needs only what every Debian system has.
set -euo pipefail
export LC_ALL=C
out=${1:?usage: demo-corpus.sh OUT.jsonl}

foldoc=/usr/share/dictd/foldoc.dict.dz
manual=/usr/share/doc/python3.11/html/_sources
mkdir -p "$(dirname "$out")"
scratch=$(mktemp -d "$(dirname "$out")/corpus.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

# Slim images install packages without their documentation: unpack a copy beside the corpus instead.
if [[ ! -d $manual ]]; then
  echo "python3.11-doc is installed without its documents; unpacking a copy of the package"
  (cd "$scratch" && apt-get download -qq python3.11-doc && dpkg-deb -x python3.11-doc_*.deb manual)
  manual=$scratch/manual$manual
fi

# Both programs print one document a line: lines joined by the two characters \n, JSON escapes done.
escape='
function escaped(s) {
  gsub(/["\\]/, "\\\\&", s); gsub(/\t/, "\\\\t", s); gsub(/[\001-\037\177]/, " ", s)
  return s
}
function add(s) {  # one line; empty lines count only between others
  if (s ~ /^[ \t]*$/) { empty++; return }
  for (; text != "" && empty >= 0; empty--) text = text "\\n"
  text = text escaped(s); empty = 0
}
function emit() {
  if (length(text) >= 40) print "{\"text\":\"" text "\"}"
  text = ""
}'

# An entry starts at a line without indentation after an indented or empty one.
gzip -dc "$foldoc" | awk "$escape"'
  /^[^ \t{]/ && !head { emit() }
  { head = /^[^ \t{]/; add($0) }
  END { emit() }' >"$scratch/documents"

# A section starts at a title: a line of text above a rule of = - * ~ ^ or " at least as long, and
# below either an empty line or a rule of the same kind.
find "$manual" -name '*.rst.txt' | sort | xargs awk "$escape"'
  function rule(s) { return s ~ /^(===+|---+|\*\*\*+|~~~+|\^\^\^+|"""+)$/ }
  function flush_file(  i, start) {
    for (i = 1; i <= n; i++) {
      start = i < n && line[i] ~ /[A-Za-z0-9]/ && !rule(line[i]) && rule(line[i + 1]) &&
              length(line[i + 1]) >= length(line[i]) && (i == 1 || line[i - 1] == "")
      if (i + 2 <= n && rule(line[i]) && line[i + 2] == line[i] && line[i + 1] != "") start = 1
      if (start) emit()
      add(line[i])
    }
    emit(); n = 0
  }
  FNR == 1 { flush_file() }
  { line[++n] = $0 }
  END { flush_file() }' >>"$scratch/documents"

# Shuffled by the minimal-standard generator (Park and Miller), which stays exact in awk arithmetic.
awk 'BEGIN { x = 20240520 } { x = (x * 16807) % 2147483647; printf "%010d\t%s\n", x, $0 }' \
  "$scratch/documents" | sort -s -k1,1 -T "$scratch" | cut -f2- >"$scratch/shuffled"
mv "$scratch/shuffled" "$out"
echo "$out: $(wc -l <"$out") documents, $(wc -c <"$out") bytes"
