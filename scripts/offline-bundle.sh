#!/usr/bin/env bash
# Packs the source (HEAD) and every library it needs but CUDA's into one tarball, for machines without a network
# (README.md, "Without a network"):  scripts/offline-bundle.sh [OUT.tar.gz]
# Needs Debian 12 (x86-64), binutils, apt's package lists and the network; no root, and nothing of it installed.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$(realpath -m "${1:-build/fairway-offline.tar.gz}")
mapfile -t packages < <(scripts/install-deps.sh --libraries)
# What those need at run time, and the tools that configuring takes.
packages+=(
  libdnnl2 ocl-icd-libopencl1 libfmt9 libsentencepiece0 libsimdjson14 libxxhash0 liblzma5 libzstd1 zlib1g libbrotli1
  libopenmpi3 openmpi-common libpmix2 libmunge2 libhwloc15 libudev1 libevent-core-2.1-7 libevent-pthreads-2.1-7
  libnl-3-200 libnl-route-3-200
  googletest pkgconf-bin libpkgconf3 xz-utils
)
# They come with every g++.
toolchain='^(ld-linux-x86-64|libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|libgomp)\.so'

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/debs" "$tmp/tools" "$tmp/fairway/deps" "$(dirname "$out")"
deps=$tmp/fairway/deps
lib=$deps/usr/lib/x86_64-linux-gnu

git archive HEAD | tar x -C "$tmp/fairway"
(cd "$tmp/debs" && apt-get -qq -o APT::Sandbox::User=root download patchelf "${packages[@]}")
dpkg-deb -x "$tmp"/debs/patchelf_*.deb "$tmp/tools"
rm "$tmp"/debs/patchelf_*.deb
for deb in "$tmp"/debs/*.deb; do dpkg-deb -x "$deb" "$deps"; done
# As on an installed Debian, /lib is /usr/lib.
cp -a "$deps/lib/." "$deps/usr/lib/"
rm -r "$deps/lib"
find "$deps" -lname '/lib/x86_64-linux-gnu/*' -exec sh -c 'ln -sf "$(basename "$(readlink "$1")")" "$1"' sh {} \;

# Headers, libraries, licences and a few tools are all that is wanted.
find "$deps/usr/share/doc" ! -type d ! -name copyright -delete
find "$deps/usr/share" -mindepth 1 -maxdepth 1 ! -name doc ! -name openmpi ! -name cmake ! -name pkgconfig \
  -exec rm -r {} +
find "$deps/usr/bin" ! -type d ! -name orterun ! -name orted ! -name opal_wrapper ! -name mpicc.openmpi \
  ! -name pkgconf ! -name xz -delete
rm -rf "$deps/usr/src" "$lib/fortran" "$lib"/libmpi_* "$lib"/liboshmem* "$lib"/libompitrace* "$lib"/openmpi/lib/*.so
# Of Open MPI's plugins neither those for fabrics (ranks of one host share memory, and GPUs use NCCL) nor SHMEM's.
rm -f "$lib"/libmca_common_{ucx,ofi,verbs}.so* \
  "$lib"/openmpi/lib/openmpi3/mca_{*_ucx,*_ofi,mtl_psm*,btl_openib,scoll_*,spml_*,memheap_*,sshmem_*,atomic_*}.so
ln -s libmpi.so.40 "$lib/libmpi.so"
find "$deps" -xtype l -delete
find "$deps" -type d -empty -delete

# The header alone is wanted to build for several GPUs; the library comes with the machine's CUDA.
for header in "${CUDA_HOME:-/usr/local/cuda}/include/nccl.h" /usr/local/include/nccl.h /usr/include/nccl.h; do
  if [[ -f $header ]]; then cp "$header" "$deps/usr/include/" && break; fi
done
[[ -f $deps/usr/include/nccl.h ]] || echo "no nccl.h here: without one of its own, that machine builds for one GPU only"

# Every library that any of it needs is in the bundle, or comes with g++.
elf_files() { find "$deps" -type f \( -name '*.so*' -o -path '*/bin/*' \) -exec grep -lm1 "^.ELF" {} +; }
for file in $(elf_files); do
  for name in $(readelf -d "$file" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
    if [[ ! $name =~ $toolchain && ! -e $lib/$name ]]; then
      echo "offline-bundle.sh: ${file#"$deps/"} needs $name: add its package to the list in $0" >&2
      exit 1
    fi
  done
done

# Each file finds the others from where it lies, wherever the bundle is unpacked. ($ORIGIN itself is for files that are
# reached through a link in $lib.)
for file in $(elf_files); do
  up=$(realpath --relative-to "$(dirname "$file")" "$lib")
  "$tmp/tools/usr/bin/patchelf" --set-rpath "\$ORIGIN:\$ORIGIN/$up" "$file"
done
# Open MPI and PMIx look for their plugins under the prefix they were built for, unless told of another; and mpirun
# wants ssh also where it is to start ranks on its own host only.
for name in mpirun:orterun mpiexec:orterun mpicc:mpicc.openmpi; do
  cat >"$deps/usr/bin/${name%:*}" <<WRAPPER
#!/bin/sh
deps=\$(cd "\$(dirname "\$(readlink -f "\$0")")/../.." && pwd)
lib=\$deps/usr/lib/x86_64-linux-gnu
export OPAL_PREFIX="\$deps/usr" OPAL_SYSCONFDIR="\$deps/etc/openmpi"
export OPAL_LIBDIR="\$lib" OPAL_PKGLIBDIR="\$lib/openmpi/lib/openmpi3"
export PMIX_PREFIX="\$lib/pmix2" PMIX_PKGLIBDIR="\$lib/pmix2/lib/pmix" PMIX_PKGDATADIR="\$lib/pmix2/share/pmix"
command -v ssh >/dev/null || export OMPI_MCA_plm=isolated
exec "\$deps/usr/bin/${name#*:}" "\$@"
WRAPPER
  chmod +x "$deps/usr/bin/${name%:*}"
done

tar czf "$out.part" -C "$tmp" fairway
mv "$out.part" "$out"
echo "$out: $(du -h "$out" | cut -f1); there: tar xf, cd fairway, make test-gpu bench-gpu"
