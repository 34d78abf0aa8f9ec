#!/bin/sh
# Installs the built binaries and drivers into a folder whose owner and modes
# a loader accepts, whatever the umask and the checkout's own modes are.
set -eu
: "${SUDO=}" "${TARGET:=target}"
stage=${1:?give the folder}
release=$TARGET/release

$SUDO rm -rf "$stage"
$SUDO install -d -m 0755 "$stage" "$stage/bin" "$stage/lib/containerkit/drivers"
$SUDO install -m 0755 "$release/containerkit" "$release/containerkit-shim" "$stage/bin/"
for so in "$release"/libcontainerkit_*.so; do
    $SUDO install -m 0755 "$so" "$stage/lib/containerkit/drivers/"
done
echo "stage: $stage holds $(cd "$stage" && find . -type f | wc -l) files"
