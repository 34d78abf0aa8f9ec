#!/bin/sh
# Every test of the workspace, as root because containers need it. What tests
# load is built first, as the user; then the workspaces of their own.
set -eu
: "${SUDO=}" "${CARGO:=cargo}" "${TARGET:=target}"
cd "$(dirname "$0")/../.."

# The loader refuses what others could write to, and tests load what is built
# here; a checkout made with a loose umask would fail for that alone.
umask 022

as_root() {
    if [ -n "$SUDO" ]; then
        $SUDO env "PATH=$PATH" "HOME=$HOME" "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" \
            "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}" "CARGO_TARGET_DIR=$TARGET" "$@"
    else
        "$@"
    fi
}
# What root builds in the target folder is the user's again, come what may.
[ -z "$SUDO" ] || trap '$SUDO chown -R "$(id -u):$(id -g)" "$TARGET"' EXIT

echo "== build"
$CARGO build --workspace --all-targets --locked
$CARGO build --locked --manifest-path tests/third-party/Cargo.toml --target-dir "$TARGET"
echo "== test (as root${SUDO:+ through $SUDO})"
as_root "$CARGO" test --workspace --locked --no-fail-fast
echo "== test tests/third-party"
as_root "$CARGO" test --locked --manifest-path tests/third-party/Cargo.toml --target-dir "$TARGET" --no-fail-fast
