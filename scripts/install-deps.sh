#!/usr/bin/env bash
# Installs what building and testing Fairway needs on Debian 12; with --checks also the formatter, the
# linter and the fuzzer. Idempotent: asks apt only for what is missing. Needs root (or sudo) only then.
# With --libraries only names the packages that the build takes headers and libraries from.
# In an offline bundle, which has them in deps/, installs nothing: looks for the tools it cannot bring.
set -euo pipefail

libraries=(
  libdnnl-dev libfmt-dev nlohmann-json3-dev libcli11-dev libtomlplusplus-dev
  libsentencepiece-dev libsimdjson-dev libxxhash-dev
  libopenmpi-dev openmpi-bin
  liblzma-dev libzstd-dev zlib1g-dev libbrotli-dev
  libgtest-dev libgmock-dev librapidcheck-dev
)
if [[ ${1:-} == --libraries ]]; then
  printf '%s\n' "${libraries[@]}"
  exit
fi

if [[ -d $(dirname "$0")/../deps/usr ]]; then
  for tool in g++ cmake ninja nvcc; do
    command -v "$tool" >/dev/null || {
      echo "install-deps.sh: no $tool in PATH: an offline bundle needs this machine's g++, CMake 3.25, Ninja and CUDA 13" >&2
      exit 1
    }
  done
  exit
fi

packages=(
  g++ cmake ninja-build make pkg-config git xz-utils
  "${libraries[@]}"
  dict-foldoc python3.11-doc   # the demo's text
)
if [[ ${1:-} == --checks ]]; then packages+=(clang-format clang-tidy clang libclang-rt-14-dev); fi

missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$p")
done
if ((${#missing[@]})); then
  sudo=()
  ((EUID == 0)) || sudo=(sudo)
  echo "installing: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
