#!/usr/bin/env bash
# Installs what the build needs: Debian packages, and libtorch from PyPI's `torch` wheel. Does nothing, quickly, when
# nothing is missing. The wheel goes where cmake/PalimpsestDependencies.cmake looks for it: $PALIMPSEST_TORCH, or else
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/torch-2.11.0.
# --prometheus: also prometheus and promtool for the tests of deploy/prometheus, unpacked into
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/prometheus: installing Debian's package would start a server at every boot.
# --slurm: also Slurm, munge and bindfs for tests/integration/slurm, likewise unpacked into ../slurm.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache lld pkg-config clang-format python3 python3-pip git
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  libyaml-cpp-dev prometheus-cpp-dev libcpp-httplib-dev nlohmann-json3-dev libsqlite3-dev libcli11-dev libxxhash-dev
  libpcre2-dev libicu-dev libssl-dev zlib1g-dev libgloo-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
torch_packages=(torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo > /dev/null; then
    sudo --preserve-env=DEBIAN_FRONTEND "$@"
  else
    die "root or sudo is needed for: $*"
  fi
}

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || echo "$package"
  done
}

install_packages() {
  command -v dpkg-query > /dev/null || die "this is no Debian; install by hand: ${packages[*]}"
  local missing
  mapfile -t missing < <(missing_packages)
  [ "${#missing[@]}" -gt 0 ] || return 0
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get update -q
  as_root apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# Beside its final place first, then renamed: what stands there is always complete.
install_torch() {
  local folder=${PALIMPSEST_TORCH:-${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest/torch-2.11.0}
  [ ! -e "$folder/torch/lib/libtorch_cpu.so" ] || return 0
  [ ! -e "$folder" ] || die "$folder exists but holds no libtorch; remove it and run this again"
  say "installing ${torch_packages[*]} into $folder (about 1.2 GB)"
  mkdir -p "$(dirname "$folder")"
  local partial
  partial=$(mktemp -d "$folder.partial.XXXXXX")
  # shellcheck disable=SC2064  # the name of now
  trap "rm -rf '$partial'" EXIT
  local flags=(--quiet --no-deps --no-compile --disable-pip-version-check --target "$partial")
  # PEP 668: newer Debians guard their own Python; --target does not touch it.
  if python3 -m pip install --help | grep -q -e --break-system-packages; then
    flags+=(--break-system-packages)
  fi
  python3 -m pip install "${flags[@]}" "${torch_packages[@]}"
  [ -e "$partial/torch/lib/libtorch_cpu.so" ] || die "the wheel holds no torch/lib/libtorch_cpu.so"
  chmod 755 "$partial"
  mv -T "$partial" "$folder"
}

# What `$2` (the name of a function, called in an empty folder) puts into the folder `root`, in the cache under the name
# `$1`: complete or not there at all.
unpack_into_cache() {
  local folder=${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest/$1
  [ ! -d "$folder" ] || return 0
  say "unpacking $1 into $folder"
  mkdir -p "$(dirname "$folder")"
  local partial
  partial=$(mktemp -d "$folder.partial.XXXXXX")
  # shellcheck disable=SC2064  # the name of now
  trap "rm -rf '$partial'" EXIT
  (cd "$partial" && "$2")
  mv -T "$partial/root" "$folder"
  rm -rf "$partial"
}

load_prometheus() {  # 19 MB to load, 95 MB unpacked
  if ! apt-get download -q prometheus; then
    as_root apt-get update -q
    apt-get download -q prometheus
  fi
  dpkg-deb -x prometheus_*.deb root
}

# With what these packages need and this machine lacks: 4 MB to load, 14 MB unpacked.
load_slurm() {
  mkdir -p debs/partial
  local load=(apt-get install -q -y --no-install-recommends --download-only -o "Dir::Cache::archives=$PWD/debs"
    slurmctld slurmd slurm-client munge bindfs iproute2)
  if ! as_root "${load[@]}"; then
    as_root apt-get update -q
    as_root "${load[@]}"
  fi
  local deb
  for deb in debs/*.deb; do dpkg-deb -x "$deb" root; done
}

has() {
  local program
  for program in "$@"; do command -v "$program" > /dev/null || return 1; done
}

with_prometheus=false with_slurm=false
for flag in "$@"; do
  case "$flag" in
    --prometheus) with_prometheus=true ;;
    --slurm) with_slurm=true ;;
    *) die "usage: deploy/setup.sh [--prometheus] [--slurm] (got: $*)" ;;
  esac
done
install_packages
install_torch
if "$with_prometheus" && ! has prometheus promtool; then unpack_into_cache prometheus load_prometheus; fi
if "$with_slurm" && ! has slurmctld slurmd srun munged bindfs; then unpack_into_cache slurm load_slurm; fi
say "all there"
