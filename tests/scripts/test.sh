#!/bin/sh
# Every test of the workspace, as root because containers need it. The shared
# objects that tests load are built first; workspaces of their own after.
set -eu
: "${SUDO=}" "${CARGO:=cargo}" "${TARGET:=target}"
cd "$(dirname "$0")/../.."

# The loader refuses what others could write to, and tests load what is built
# here; a checkout made with a loose umask would fail for that alone.
umask 022
echo "== build"
$CARGO build --workspace --all-targets --locked
$CARGO build --locked --manifest-path tests/third-party/Cargo.toml --target-dir "$TARGET"
echo "== test (as root${SUDO:+ through $SUDO})"
if [ -n "$SUDO" ]; then
    $SUDO --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR \
        "$CARGO" test --workspace --locked --no-fail-fast
    $SUDO --preserve-env=PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR \
        "$CARGO" test --locked --manifest-path tests/third-party/Cargo.toml --target-dir "$TARGET" --no-fail-fast
    # What root built in the target folder is the user's again.
    $SUDO chown -R "$(id -u):$(id -g)" "$TARGET"
else
    $CARGO test --workspace --locked --no-fail-fast
    $CARGO test --locked --manifest-path tests/third-party/Cargo.toml --target-dir "$TARGET" --no-fail-fast
fi
