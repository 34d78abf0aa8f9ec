#!/bin/sh
# Installs the Debian packages that running and testing need, if missing.
# Says what it installs; without a network it works once they are there.
set -eu
: "${SUDO=}"

# PACKAGE:PROGRAM-THAT-PROVES-IT
wanted="runc:runc crun:crun busybox-static:busybox gcc:gcc make:make skopeo:skopeo umoci:umoci
  docker-registry:docker-registry openssl:openssl"

missing=""
for pair in $wanted; do
    command -v "${pair#*:}" >/dev/null 2>&1 || PATH="$PATH:/usr/sbin:/sbin" command -v "${pair#*:}" >/dev/null 2>&1 ||
        missing="$missing ${pair%%:*}"
done
# A busybox that is linked dynamically does not run in an empty rootfs.
if command -v busybox >/dev/null 2>&1 && ! dpkg -s busybox-static >/dev/null 2>&1; then
    missing="$missing busybox-static"
fi
# What checks our signatures has no program: libraries of the system's Python.
for package in python3-nacl python3-cryptography; do
    dpkg -s "$package" >/dev/null 2>&1 || missing="$missing $package"
done
if ! command -v "${CARGO:-cargo}" >/dev/null 2>&1; then
    echo "error: cargo is missing: install Rust by rustup, see https://rustup.rs" >&2
    exit 1
fi
[ -n "$missing" ] || { echo "setup: everything is there ($(printf '%s\n' $wanted | cut -d: -f1 | paste -sd ' '))"; exit 0; }

echo "setup: installing$missing by apt${SUDO:+ (through $SUDO)}"
export DEBIAN_FRONTEND=noninteractive
$SUDO apt-get update -q
# shellcheck disable=SC2086 # words
$SUDO apt-get install -y -q --no-install-recommends $missing
