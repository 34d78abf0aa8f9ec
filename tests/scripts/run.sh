#!/bin/sh
# The main job, end to end: import an image, run a container, then swap the
# snapshotter and the runtime by one line of TOML each and run again. Shows
# which shared object served, and that `containerkit` stays the same file.
set -eu
: "${SUDO=}" "${CARGO:=cargo}" "${TARGET:=target}"
stage=$(cd "${1:?give the stage}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
bin=$stage/bin/containerkit
drivers=$stage/lib/containerkit/drivers

echo "== build the drivers of third parties as they would: a workspace of its own, one dependency"
$CARGO build --release --locked --manifest-path "$here/../third-party/Cargo.toml" --target-dir "$TARGET"
work=$(mktemp -d /tmp/containerkit-run.XXXXXX)
chmod 0755 "$work"
cleanup() { $SUDO rm -rf "$work"; }
trap cleanup EXIT INT TERM
$SUDO install -d -m 0755 "$work/drivers"
$SUDO install -m 0755 "$TARGET/release/libcontainerkit_native.so" "$work/drivers/"

echo "== make an image from busybox-static: $work/busybox"
"$here/image.sh" "$work/busybox"

config=$work/containerkit.toml
cat >"$config" <<EOF
version = 1
root = "$work/root"
state = "$work/state"
driver_path = ["$drivers", "$work/drivers"]

[default]
runtime = "runc"
snapshotter = "overlay"

[snapshotter.native]
driver = "libcontainerkit_native.so"
EOF

kit() { $SUDO "$bin" --config "$config" "$@"; }
# crun refuses a machine that has cgroup 1 controllers and an empty cgroup 2
# mount beside them; without that mount, in a namespace of its own, it runs.
kit_for_crun() {
    if [ -d /sys/fs/cgroup/unified ]; then
        $SUDO unshare -m --propagation private sh -c \
            'umount /sys/fs/cgroup/unified && mount -t tmpfs none /sys/fs/cgroup/unified && exec "$@"' sh "$bin" --config "$config" "$@"
    else
        kit "$@"
    fi
}

# PATH and sha256 of what served a kind and instance
served() {
    path=$(kit driver inspect "$1" | sed -n 's/^path *//p')
    echo "   $1: $(sha256sum "$path" | cut -d' ' -f1) $path"
}
summary() {
    for name in "$@"; do served "$name"; done
    echo "   containerkit: $(sha256sum "$bin" | cut -d' ' -f1) $bin"
}

echo "== import and run: runtime runc, snapshotter overlay, content local"
kit image import "$work/busybox" --name busybox
kit run --rm busybox sh -c 'echo "hello from $(hostname), $(id -un), root is $(awk '\''$2 == "/" { print $3 }'\'' /proc/mounts)"'
summary runc overlay local

echo "== one line of TOML: snapshotter = \"native\""
sed -i 's/^snapshotter = .*/snapshotter = "native"/' "$config"
kit run --rm busybox sh -c 'echo "hello from $(hostname), $(id -un), root is $(awk '\''$2 == "/" { print $3 }'\'' /proc/mounts)"'
summary runc native local

echo "== one line of TOML: runtime = \"crun\""
sed -i 's/^runtime = .*/runtime = "crun"/' "$config"
if kit_for_crun run --rm busybox sh -c 'echo "hello from $(hostname), $(id -un)"'; then
    summary crun native local
else
    echo "   crun does not start on this machine (its reason is above); runc ran twice"
fi
kit ps --all
echo "== done: nothing of the containers is left"
