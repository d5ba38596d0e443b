#!/usr/bin/env bash
# Installs what the build needs: Debian packages, and libtorch from PyPI's `torch` wheel. Does nothing, quickly, when
# nothing is missing. The wheel goes where cmake/PalimpsestDependencies.cmake looks for it: $PALIMPSEST_TORCH, or else
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/torch-2.11.0.
# --prometheus: also prometheus and promtool for the tests of deploy/prometheus, unpacked into
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/prometheus: installing Debian's package would start a server at every boot.
# --slurm: also Slurm, munge and bindfs for tests/integration/slurm, likewise unpacked into ../slurm.
# --python-clients: also a Python environment with what deploy/clients.txt lists, for the tests of the ways in, at
# ${XDG_CACHE_HOME:-~/.cache}/palimpsest/clients-<first 12 digits of the list's SHA-256>: another list, another folder.
# --tensorboard: likewise what deploy/tensorboard.txt lists, at ../tensorboard-<..>, for the test that reads event files.
# --browser: also Chromium, for the test of the web page.
# --peers: also what deploy/peers.txt lists, at ../peers-<..>, for tests/bench/peers: transformers on the torch that is
# there already, and llama.cpp, compiled for this machine's processor.
# --python-envs: also the Python of the workers of palimpsest-env, with reasoning-gym, minigrid and math-verify in pinned
# versions, as a virtual environment in ${XDG_CACHE_HOME:-~/.cache}/palimpsest/envs-N (N stands in the file of the pins).
# --fuzzers: also clang with libFuzzer, for the preset fuzz.
set -euo pipefail

packages=(
  g++ cmake ninja-build ccache lld pkg-config clang-format python3 python3-pip python3-venv git
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev
  libyaml-cpp-dev prometheus-cpp-dev libcpp-httplib-dev nlohmann-json3-dev libsqlite3-dev libcli11-dev libxxhash-dev
  libpcre2-dev libicu-dev libssl-dev openssl zlib1g-dev libgloo-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)
browser_packages=(chromium fonts-liberation)
fuzzer_packages=(clang libclang-rt-dev)
python_packages=(python3-dev)  # one of the pinned packages comes as C source only
torch_packages=(torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/palimpsest
client_list=$root/deploy/clients.txt
tensorboard_list=$root/deploy/tensorboard.txt
peer_list=$root/deploy/peers.txt
torch_folder=${PALIMPSEST_TORCH:-$cache/torch-2.11.0}
env_pins=$root/services/env/python/requirements.txt

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

has() {
  local program
  for program in "$@"; do command -v "$program" > /dev/null || return 1; done
}

# make_folder FOLDER PROOF FILL WHAT: where FOLDER/PROOF is not there, FOLDER becomes what the function FILL leaves in an
# empty folder that it is called in: complete, or not there at all. WHAT is told, with what it costs.
make_folder() {
  local folder=$1 proof=$2 fill=$3 what=$4 partial
  [ ! -e "$folder/$proof" ] || return 0
  [ ! -e "$folder" ] || die "$folder exists but holds no $proof; remove it and run this again"
  say "$what into $folder"
  mkdir -p "$(dirname "$folder")"
  partial=$(mktemp -d "$folder.partial.XXXXXX")
  # shellcheck disable=SC2064  # the name of now
  trap "rm -rf '$partial'" EXIT
  (cd "$partial"; "$fill"; [ -e "$proof" ] || die "$what brought no $proof")
  chmod 755 "$partial"
  mv -T "$partial" "$folder"
}

# make_environment NAME FILL WHAT: likewise the virtual environment NAME in the cache.
make_environment() {
  local proof
  proof=lib/$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')/site-packages
  [ -e "$cache/$1/$proof" ] || rm -rf "${cache:?}/$1"  # made by a Python that is no longer there
  make_folder "$cache/$1" "$proof" "$2" "$3"
}

fill_torch() {
  local flags=(--quiet --no-deps --no-compile --disable-pip-version-check --target .)
  # PEP 668: newer Debians guard their own Python; --target does not touch it.
  if python3 -m pip install --help | grep -q -e --break-system-packages; then
    flags+=(--break-system-packages)
  fi
  python3 -m pip install "${flags[@]}" "${torch_packages[@]}"
}

# with_fresh_lists COMMAND..: what needs apt's lists; again with new ones if it fails.
with_fresh_lists() {
  "$@" && return 0
  as_root apt-get update -q
  "$@"
}

fill_prometheus() {
  with_fresh_lists apt-get download -q prometheus
  dpkg-deb -x prometheus_*.deb .
  rm prometheus_*.deb
}

# With what these packages need and this machine lacks.
fill_slurm() {
  mkdir -p debs/partial
  with_fresh_lists as_root apt-get install -q -y --no-install-recommends --download-only \
    -o "Dir::Cache::archives=$PWD/debs" slurmctld slurmd slurm-client munge bindfs iproute2
  local deb
  for deb in debs/*.deb; do dpkg-deb -x "$deb" .; done
  rm -r debs
}

fill_clients() {
  python3 -m venv .
  bin/python -m pip install --quiet --no-deps --disable-pip-version-check -r "$client_list"
  bin/python -c 'import grpc, openai'
}

fill_tensorboard() {
  python3 -m venv .
  bin/python -m pip install --quiet --no-deps --disable-pip-version-check -r "$tensorboard_list"
  bin/python -c 'from tensorboard.backend.event_processing import event_file_loader'
}

# The torch of the cache by hard links where the disk allows it, so that it finds its libraries beside it.
link_torch() {
  local site part
  site=$(bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  for part in "$torch_folder"/torch*; do
    cp -al "$part" "$site/" 2> /dev/null || cp -a "$part" "$site/"
  done
}

fill_peers() {
  python3 -m venv .
  local pip=(bin/python -m pip install --quiet --no-deps --disable-pip-version-check)
  grep -v '^llama-cpp-python==' "$peer_list" > others.txt
  "${pip[@]}" -r others.txt
  rm others.txt
  CMAKE_ARGS="-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF" \
    "${pip[@]}" --no-build-isolation --no-binary llama-cpp-python "$(grep '^llama-cpp-python==' "$peer_list")"
  link_torch
  bin/python -c 'import gguf, llama_cpp, torch, transformers'
}

fill_python_envs() {
  python3 -m venv --without-pip .
  python3 -m pip --python "$PWD/bin/python" install --quiet --no-deps --disable-pip-version-check -r "$env_pins"
  bin/python -c 'import math_verify, minigrid, reasoning_gym' > /dev/null
}

with_prometheus=false with_slurm=false with_clients=false with_tensorboard=false with_python_envs=false with_peers=false
for option in "$@"; do
  case "$option" in
    --prometheus) with_prometheus=true ;;
    --slurm) with_slurm=true ;;
    --python-clients) with_clients=true ;;
    --tensorboard) with_tensorboard=true ;;
    --peers) with_peers=true ;;
    --fuzzers) packages+=("${fuzzer_packages[@]}") ;;
    --browser) packages+=("${browser_packages[@]}") ;;
    --python-envs) with_python_envs=true packages+=("${python_packages[@]}") ;;
    *) die "usage: deploy/setup.sh [--prometheus] [--slurm] [--python-clients] [--tensorboard] [--browser]" \
      "[--fuzzers] [--python-envs] [--peers] (got: $*)" ;;
  esac
done
install_packages
make_folder "$torch_folder" torch/lib/libtorch_cpu.so fill_torch \
  "installing ${torch_packages[*]} (about 1.2 GB)"
if $with_prometheus && ! has prometheus promtool; then
  make_folder "$cache/prometheus" usr/bin/promtool fill_prometheus "unpacking prometheus (19 MB to load, 95 MB unpacked)"
fi
if $with_slurm && ! has slurmctld slurmd srun munged bindfs; then
  make_folder "$cache/slurm" usr fill_slurm "unpacking Slurm (4 MB to load, 14 MB unpacked)"
fi
if $with_clients; then
  make_environment "clients-$(sha256sum "$client_list" | cut -c1-12)" fill_clients "installing openai and grpcio (82 MB)"
fi
if $with_tensorboard; then
  make_environment "tensorboard-$(sha256sum "$tensorboard_list" | cut -c1-12)" fill_tensorboard \
    "installing tensorboard (113 MB)"
fi
if $with_peers; then
  make_environment "peers-$(sha256sum "$peer_list" | cut -c1-12)" fill_peers \
    "installing transformers and NVIDIA's libraries, compiling llama.cpp (3.1 GB, some minutes)"
fi
if $with_python_envs; then
  make_environment "envs-$(sed -n '1s/^# envs-\([0-9]*\).*/\1/p' "$env_pins")" fill_python_envs \
    "installing reasoning-gym, minigrid and math-verify (about 400 MB)"
fi
say "all there"
