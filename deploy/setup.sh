#!/usr/bin/env bash
# Installs what the build needs: Debian packages, and libtorch from PyPI's `torch` wheel. Does nothing, quickly, when
# nothing is missing. The wheel goes where cmake/PalimpsestDependencies.cmake looks for it: $PALIMPSEST_TORCH, or else
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/torch-2.11.0.
# --prometheus: also prometheus and promtool for the tests of deploy/prometheus, unpacked into
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/prometheus: installing Debian's package would start a server at every boot.
# --python-clients: also a Python environment with what deploy/clients.txt lists, for the tests of the ways in, at
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/clients-<first 12 digits of the list's SHA-256>: another list, another folder.
# --python-envs: also the Python of the workers of palimpsest-env, with reasoning-gym, minigrid and math-verify in pinned
# versions, as a virtual environment in ${XDG_CACHE_HOME:-~/.cache}/palimpsest/envs-N (N stands in the file of the pins).
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache lld pkg-config clang-format python3 python3-pip python3-venv git
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  libyaml-cpp-dev prometheus-cpp-dev libcpp-httplib-dev nlohmann-json3-dev libsqlite3-dev libcli11-dev libxxhash-dev
  libpcre2-dev libicu-dev libssl-dev zlib1g-dev libgloo-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
python_packages=(python3-dev)  # one of the pinned packages comes as C source only
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

# new_folder FOLDER: sets `partial`, an empty folder beside it that goes away with this script unless it is renamed: what
# stands in FOLDER is always complete.
new_folder() {
  mkdir -p "$(dirname "$1")"
  partial=$(mktemp -d "$1.partial.XXXXXX")
  # shellcheck disable=SC2064  # the name of now
  trap "rm -rf '$partial'" EXIT
}

install_torch() {
  local folder=${PALIMPSEST_TORCH:-${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest/torch-2.11.0}
  [ ! -e "$folder/torch/lib/libtorch_cpu.so" ] || return 0
  [ ! -e "$folder" ] || die "$folder exists but holds no libtorch; remove it and run this again"
  say "installing ${torch_packages[*]} into $folder (about 1.2 GB)"
  local partial
  new_folder "$folder"
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

unpack_prometheus() {
  local folder=${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest/prometheus
  [ ! -x "$folder/usr/bin/promtool" ] || return 0
  if command -v prometheus > /dev/null && command -v promtool > /dev/null; then return 0; fi
  say "unpacking prometheus into $folder (19 MB to load, 95 MB unpacked)"
  local partial
  new_folder "$folder"
  if ! (cd "$partial" && apt-get download -q prometheus); then
    as_root apt-get update -q
    (cd "$partial" && apt-get download -q prometheus)
  fi
  dpkg-deb -x "$partial"/prometheus_*.deb "$partial/root"
  rm -rf "$folder"
  mv -T "$partial/root" "$folder"
}

install_clients() {
  local list folder partial
  list=$(dirname "${BASH_SOURCE[0]}")/clients.txt
  folder=${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest/clients-$(sha256sum "$list" | cut -c1-12)
  if [ -e "$folder" ] && "$folder/bin/python" -c 'import grpc, openai' 2> /dev/null; then return 0; fi
  say "installing openai and grpcio into $folder (82 MB)"
  new_folder "$folder"
  python3 -m venv "$partial"
  "$partial/bin/python" -m pip install --quiet --no-deps --disable-pip-version-check -r "$list"
  rm -rf "$folder"  # made by a Python that is no longer there
  mv -T "$partial" "$folder"
}

install_python_envs() {
  local pins version folder partial
  pins=$(dirname "${BASH_SOURCE[0]}")/../services/env/python/requirements.txt
  version=$(sed -n '1s/^# envs-\([0-9]*\).*/\1/p' "$pins")
  folder=${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest/envs-$version
  [ ! -x "$folder/bin/python" ] || return 0
  [ ! -e "$folder" ] || die "$folder exists but holds no Python; remove it and run this again"
  say "installing reasoning-gym, minigrid and math-verify into $folder (about 400 MB)"
  new_folder "$folder"
  python3 -m venv --without-pip "$partial"
  python3 -m pip --python "$partial/bin/python" install --quiet --no-deps --disable-pip-version-check -r "$pins"
  "$partial/bin/python" -c 'import math_verify, minigrid, reasoning_gym' > /dev/null
  chmod 755 "$partial"
  mv -T "$partial" "$folder"
}

with_prometheus=false with_clients=false with_python_envs=false
for option in "$@"; do
  case "$option" in
    --prometheus) with_prometheus=true ;;
    --python-clients) with_clients=true ;;
    --python-envs) with_python_envs=true packages+=("${python_packages[@]}") ;;
    *) die "usage: deploy/setup.sh [--prometheus] [--python-clients] [--python-envs] (got: $*)" ;;
  esac
done
install_packages
install_torch
if $with_prometheus; then unpack_prometheus; fi
if $with_clients; then install_clients; fi
if $with_python_envs; then install_python_envs; fi
say "all there"
