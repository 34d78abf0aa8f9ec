#!/bin/sh
# `run --rm` of `true` against the bare runtimes on the same bundle, `exec`, a
# shim's memory, and `ps` of many containers, in one run: medians and ratios.
# Prints figures and judges nothing.
set -eu
: "${SUDO=}"
# In a mount namespace of its own. crun refuses cgroup 1 controllers with an
# empty cgroup 2 mount beside them, so everything is measured without that mount.
if [ -z "${BENCH_APART-}" ]; then
    BENCH_APART=yes exec $SUDO unshare -m --propagation private sh -c '
        if [ -e /sys/fs/cgroup/unified/cgroup.controllers ]; then
            umount /sys/fs/cgroup/unified && mount -t tmpfs none /sys/fs/cgroup/unified
        fi
        SUDO= exec "$@"' sh "$0" "$@"
fi
stage=$(cd "${1:?give the stage}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
bin=$stage/bin/containerkit
rounds=${ROUNDS:-30}
# On a fresh ext4 file system in memory: on the machine's own disk creating
# files is slow for minutes after a big delete.
work=$(mktemp -d /tmp/containerkit-bench.XXXXXX)
mount -t tmpfs -o size=6g,mode=755 tmpfs "$work"
mkdir "$work/fs"
truncate -s 5g "$work/disk"
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$work/disk"
mount -o loop "$work/disk" "$work/fs"
chmod 0755 "$work/fs"
# Run-time data of both is in memory, as /run is.
state=$(mktemp -d /dev/shm/containerkit-bench.XXXXXX)
clean() {
    umount -R "$work/fs" "$work" 2>/dev/null || umount -l "$work" 2>/dev/null || true
    rm -rf "$work" "$state"
}
trap clean EXIT
trap 'exit 1' INT TERM
"$here/image.sh" "$work/busybox"
cat >"$work/containerkit.toml" <<EOF
version = 1
root = "$work/fs/root"
state = "$state/kit"
driver_path = ["$stage/lib/containerkit/drivers"]
EOF
kit() { $SUDO "$bin" --config "$work/containerkit.toml" "$@"; }
kit image import "$work/busybox" --name busybox >/dev/null

# A bundle for the bare runtime with the same image.
mkdir -p "$work/fs/bundle/rootfs"
tar -C "$work/fs/bundle/rootfs" -xzf "$(find "$work/busybox/blobs" -type f -size +100k)"
(cd "$work/fs/bundle" && runc spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"true"/' config.json)
# And one with the very spec that a container gets here: its mounts, cgroup
# limits and system-call filter are work for any caller of the runtime.
kit create --name spec busybox true >/dev/null
mkdir -p "$work/fs/same"
cp -a "$work/fs/bundle/rootfs" "$work/fs/same/rootfs"
cp "$state/kit/containers/$(kit inspect spec | sed -n 's/^ *"id": "\(.*\)",*$/\1/p' | head -n 1)/bundle/config.json" "$work/fs/same/"

# milliseconds of one command
ms() {
    start=$(date +%s%N)
    "$@" >/dev/null
    echo $((($(date +%s%N) - start) / 10000))
}
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.2f", v[int((NR + 1) / 2)] / 100 }'; }
for runtime in runc crun; do
    command -v "$runtime" >/dev/null 2>&1 || { echo "run --rm true: $runtime is not installed"; continue; }
    : >"$work/bare" && : >"$work/bare-same" && : >"$work/kit"
    i=0
    # After a pause, as commands of a person or of a build come.
    while [ $i -lt "$rounds" ]; do
        sleep 0.05
        ms $SUDO "$runtime" --root "$state/$runtime" run --bundle "$work/fs/bundle" "bench-$i" >>"$work/bare"
        sleep 0.05
        ms $SUDO "$runtime" --root "$state/$runtime" run --bundle "$work/fs/same" "bench-$i" >>"$work/bare-same"
        sleep 0.05
        ms kit run --rm --runtime "$runtime" busybox true >>"$work/kit"
        i=$((i + 1))
    done
    bare=$(median <"$work/bare")
    same=$(median <"$work/bare-same")
    ours=$(median <"$work/kit")
    echo "run --rm true, median of $rounds: containerkit $ours ms; $runtime alone on its example spec $bare ms, ratio $(awk "BEGIN { printf \"%.2f\", $ours / $bare }"); $runtime alone on containerkit's spec $same ms, ratio $(awk "BEGIN { printf \"%.2f\", $ours / $same }")"
done
kit delete spec >/dev/null

# A container in the background: what its shim costs, and a further process.
# There are two, so that what both only read is no private memory of either.
kit run --detach --name bench busybox sleep 1000 >/dev/null
kit run --detach --name other busybox sleep 1000 >/dev/null
trap 'kit delete --force bench other >/dev/null; clean' EXIT
runc_id=$(kit inspect bench | sed -n 's/^ *"id": "\(.*\)",*$/\1/p' | head -n 1)
: >"$work/bare-exec" && : >"$work/kit-exec"
i=0
while [ $i -lt "$rounds" ]; do
    ms $SUDO runc --root "$state/kit/runtime/runc/root" exec "$runc_id" true >>"$work/bare-exec" 2>/dev/null || break
    ms kit exec bench true >>"$work/kit-exec"
    i=$((i + 1))
done
[ $i -lt "$rounds" ] || echo "exec true, median of $rounds: runc alone $(median <"$work/bare-exec") ms, containerkit $(median <"$work/kit-exec") ms"
parent() { awk '{ print $4 }' "/proc/$1/stat"; }
init=$(kit inspect bench | sed -n 's/^ *"pid": \([0-9]*\),*$/\1/p' | head -n 1)
supervisor=$(parent "$init")
guard=$(parent "$supervisor")
$SUDO cat "/proc/$supervisor/smaps_rollup" "/proc/$guard/smaps_rollup" |
    awk '/^Private_/ { private += $2 } /^Pss:/ { pss += $2 } END { printf "shim and guard of one container: %d KiB private, %d KiB in proportion\n", private, pss }'

# What a list costs, and what a run costs beside many containers.
many=${MANY:-1000}
i=0
while [ $i -lt "$many" ]; do
    kit create busybox true >/dev/null
    i=$((i + 1))
done
: >"$work/ps" && : >"$work/beside"
i=0
while [ $i -lt "$rounds" ]; do
    ms kit ps --all >>"$work/ps"
    ms kit run --rm busybox true >>"$work/beside"
    i=$((i + 1))
done
echo "ps --all of $many containers, median of $rounds: $(median <"$work/ps") ms; run --rm true beside them: $(median <"$work/beside") ms"
