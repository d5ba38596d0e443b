#!/usr/bin/env bash
# Certificates for the daemons of a run and for those who speak to them, in RUN_FOLDER/tls: ca.pem, and for each role
# <role>.pem, its private key and its certificate in one file, so that both are replaced at once. `tls.folder` of the
# YAML names the folder.
#
# Usage: deploy/tls/make-certs.sh RUN_FOLDER [--renew ROLE|all]... [--days N] [HOST..]
#   HOST     names and addresses by which others reach the daemons, besides localhost and this machine's name. Ours look
#            at the role alone; Python's gRPC, Prometheus and browsers look at the host.
#   --renew  makes this role's certificate again, for the hosts named now. Without it what is there stays, unless it ends within a day, lacks one
#            of the hosts or is of another CA.
#   --days   that new certificates are good for, default 365.
# The role is the URI palimpsest://role/<role> among the certificate's names: gRPC, Go and Python hand URIs over as they
# are, whereas a subject is text that each of them parses in a way of its own.
# RUN_FOLDER/tls/ca.key signs; no daemon reads it. Keep it elsewhere and bring it back to renew. To replace the CA, remove
# ca.key and ca.pem and run this again.
set -euo pipefail

roles=(inference router trainer orchestrator env client operator metrics)

say() { printf 'make-certs: %s\n' "$*" >&2; }
die() { say "$*"; exit 2; }

usage='usage: make-certs.sh RUN_FOLDER [--renew ROLE|all] [--days N] [HOST..]'
# What is meant as an address: only digits and dots, or a colon.
is_address() { [[ $1 =~ ^[0-9.]+$ || $1 = *:* ]]; }

# Of 253 characters at most, labels of 63; the first may be * for all names below the rest.
is_name() {
  local label='[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?'
  [[ ${#1} -le 253 && $1 =~ ^(\*\.)?$label(\.$label)*$ ]]
}

is_ipv4() {
  local byte='(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])'
  [[ $1 =~ ^$byte(\.$byte){3}$ ]]
}

# RFC 4291, section 2.2: eight groups of hexadecimal digits; :: once, for one group or more of zeros; the last two may be
# written as an IPv4 address.
is_ipv6() {
  local text=$1 groups
  if [[ $text =~ ^(.*:)([0-9.]+)$ && ${BASH_REMATCH[2]} = *.* ]]; then
    text=${BASH_REMATCH[1]}0:0
    is_ipv4 "${BASH_REMATCH[2]}" || return 1
  fi
  [[ $text =~ ^[0-9A-Fa-f:]+$ && $text != *:::* && $text != *::*::* ]] || return 1
  [[ ! $text =~ (^:[^:]|[^:]:$|[0-9A-Fa-f]{5}) ]] || return 1
  groups=${text//:/ }
  # shellcheck disable=SC2086  # one word for each group
  set -- $groups
  if [[ $text = *::* ]]; then [ $# -le 7 ]; else [ $# -eq 8 ]; fi
}

hosts=() renew=() days=365 words=()
while [ $# -gt 0 ]; do
  case "$1" in
    --renew | --days)
      [ $# -ge 2 ] || die "$1 needs a value"
      if [ "$1" = --days ]; then days=$2; else renew+=("$2"); fi
      shift
      ;;
    -*) die "$1 is not known; $usage" ;;
    *) words+=("$1") ;;
  esac
  shift
done
[ ${#words[@]} -gt 0 ] || die "$usage"
run=${words[0]}
hosts=("${words[@]:1}")
[ -n "$run" ] || die "RUN_FOLDER=\"\" is empty; $usage"
[[ $days =~ ^[1-9][0-9]{0,3}$ ]] || die "--days $days is not a number of [1, 9999]"
for role in "${renew[@]}"; do
  [[ " ${roles[*]} all " = *" $role "* ]] || die "--renew $role is none of: ${roles[*]} all"
done
for host in "${hosts[@]}"; do
  [ -n "$host" ] || die "HOST=\"\" is empty; $usage"
  if is_address "$host"; then
    { is_ipv4 "$host" || is_ipv6 "$host"; } || die "HOST=$host is no address"
  else
    is_name "$host" || die "HOST=$host is neither a host's name nor an address"
  fi
done
command -v openssl > /dev/null || die "openssl is missing; deploy/setup.sh installs it"
hosts=(localhost 127.0.0.1 ::1 "$(hostname)" "${hosts[@]}")

folder=$run/tls
mkdir -p "$run"
umask 077
mkdir -p "$folder"
work=$(mktemp -d "$folder/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2> /dev/null; }

make_ca() {
  cat > "$work/ca.conf" << CONF
[req]
prompt = no
distinguished_name = name
x509_extensions = ca
[name]
CN = Palimpsest run CA $(openssl rand -hex 8)
[ca]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
CONF
  new_key "$work/ca.key"
  openssl req -x509 -new -config "$work/ca.conf" -key "$work/ca.key" -days 9999 -out "$work/ca.pem"
  mv "$work/ca.key" "$folder/ca.key"
  mv "$work/ca.pem" "$folder/ca.pem"
  say "made a CA"
}

issue() {
  local role=$1 names="URI:palimpsest://role/$1" host
  for host in "${hosts[@]}"; do
    if is_address "$host"; then names+=",IP:$host"; else names+=",DNS:$host"; fi
  done
  [ -e "$folder/ca.key" ] || die "$folder/ca.key is not there, and $role.pem has to be signed"
  cat > "$work/$role.conf" << CONF
[req]
prompt = no
distinguished_name = name
[name]
CN = $role
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = $names
CONF
  new_key "$work/$role.pem"
  openssl req -new -config "$work/$role.conf" -key "$work/$role.pem" -out "$work/$role.csr"
  openssl x509 -req -in "$work/$role.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" \
    -set_serial "0x$(openssl rand -hex 16)" -days "$days" -extfile "$work/$role.conf" -extensions leaf \
    >> "$work/$role.pem" 2> "$work/$role.log" || die "openssl could not sign $role: $(cat "$work/$role.log")"
  mv "$work/$role.pem" "$folder/$role.pem"
  say "made $role.pem for $days days"
}

# Is what is there still good for what was asked?
stays() {
  local file=$folder/$1.pem host kind
  [ -e "$file" ] || return 1
  [[ " ${renew[*]} " != *" $1 "* && " ${renew[*]} " != *" all "* ]] || return 1
  openssl x509 -in "$file" -noout -checkend 86400 > /dev/null || return 1
  openssl verify -CAfile "$folder/ca.pem" "$file" > /dev/null 2>&1 || return 1
  for host in "${hosts[@]}"; do
    if is_address "$host"; then kind=-checkip; else kind=-checkhost; fi
    openssl x509 -in "$file" -noout "$kind" "$host" | grep -q 'does match' || return 1
  done
}

if [ ! -e "$folder/ca.pem" ]; then
  [ ! -e "$folder/ca.key" ] || die "$folder has ca.key but no ca.pem; remove the key, or bring the certificate back"
  make_ca
fi
for role in "${roles[@]}"; do
  if stays "$role"; then say "$role.pem stays"; else issue "$role"; fi
done
