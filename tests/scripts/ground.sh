# What the benches of images share; sourced, with the stage as $1. Each round is
# on a fresh ext4 file system on a loop device in a tmpfs: on the machine's own
# disk creating files is slow for minutes after a big delete.
# shellcheck shell=sh
#
# BENCH_IMAGES=DIR takes the layouts DIR/app-gzip and DIR/app-zstd (ref name
# `latest`); without it the layers are made of this machine's own /usr.
: "${SUDO=}"
stage=$(cd "${1:?give the stage}" && pwd)
rounds=${ROUNDS:-3}
# In namespaces of its own: whatever ends this, its mounts end with it, and
# what is counted on the loopback is ours.
if [ "${CONTAINERKIT_BENCH_INSIDE:-}" != yes ]; then
    exec $SUDO env CONTAINERKIT_BENCH_INSIDE=yes "BENCH_IMAGES=${BENCH_IMAGES:-}" "ROUNDS=$rounds" \
        unshare -m -n --propagation private "$0" "$stage"
fi
busybox ip link set lo up
bin=$stage/bin/containerkit
work=$(mktemp -d /tmp/containerkit-bench.XXXXXX)
daemon=
registry=
stop() {
    [ -z "$1" ] || { kill "$1" && wait "$1"; } 2>/dev/null || true
}
end() {
    stop "$daemon"
    stop "$registry"
    umount -R "$work/fs" "$work" 2>/dev/null || umount -l "$work" 2>/dev/null || true
    rmdir "$work" 2>/dev/null || true
}
trap end EXIT
trap 'exit 1' INT TERM
mount -t tmpfs -o size=16g,mode=755 tmpfs "$work"
mkdir "$work/fs"

fresh() {
    ! mountpoint -q "$work/fs" || umount "$work/fs"
    rm -f "$work/disk" && truncate -s 6g "$work/disk"
    mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$work/disk"
    mount -o loop "$work/disk" "$work/fs"
    mkdir -m 0755 "$work/fs/a"
    sync
}

# Eight layers of /usr, to 100 MB each, as our own `image pack` makes them.
make_images() {
    echo "bench: making an image of eight layers from /usr (BENCH_IMAGES=DIR takes others)"
    fresh
    root=$work/fs/rootfs
    mkdir "$root"
    pack="$bin --root $work/fs/root --state $work/fs/state"
    base=
    for dir in bin lib/python3 lib/x86_64-linux-gnu lib/gcc share/doc share/locale include share; do
        [ -d "/usr/$dir" ] || continue
        mkdir -p "$root/usr/$dir"
        # Not more than there is room for, and in an order that is the same.
        (cd "/usr/$dir" && find . -xdev -type f -size -4M | LC_ALL=C sort | head -6000 |
            tar -cf - --no-recursion -T - 2>/dev/null) | tar -C "$root/usr/$dir" -xf - || true
        # shellcheck disable=SC2086 # words
        $pack image pack --rootfs "$root" $base app-gzip >/dev/null 2>"$work/log"
        base="--base app-gzip"
    done
    mkdir "$work/images"
    $pack image tag app-gzip app:latest
    $pack image export app:latest -o "$work/images/app-gzip"
    images=$work/images
    umount "$work/fs"
}

seconds() {
    start=$(date +%s%N)
    "$@" >"$work/log" 2>&1 || { echo "bench: $* failed:" >&2 && tail -3 "$work/log" >&2 && return 1; }
    # What the command left to the kernel counts too.
    sync -f "$work/fs"
    echo $((($(date +%s%N) - start) / 1000000))
}
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.2f", v[int((NR + 1) / 2)] / 1000 }'; }
# Runs a command beside a containerd of its own, whose socket is $ctr_sock.
ctr_sock=$work/fs/a/run/sock
by_containerd() {
    mkdir -p "$work/fs/a/run"
    printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$work/containerd.toml"
    containerd --config "$work/containerd.toml" --root "$work/fs/a/root" --state "$work/fs/a/run" \
        --address "$ctr_sock" >"$work/daemon" 2>&1 &
    daemon=$!
    until ctr --address "$ctr_sock" version >/dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || { echo "bench: containerd does not start" >&2 && return 1; }
        sleep 0.1
    done
    status=0
    "$@" || status=1
    stop "$daemon"
    daemon=
    return $status
}
# Whether all of these programs are there; names those that are not.
installed() {
    for program; do
        command -v "$program" >/dev/null 2>&1 && continue
        echo "   $program: not installed, left out (apt-get install $program)"
        return 1
    done
}
# The median of some rounds of a command, each on a fresh file system.
measure() {
    label=$1
    shift
    : >"$work/times"
    i=0
    while [ $i -lt "$rounds" ]; do
        fresh
        "$@" >>"$work/times" || return 0
        i=$((i + 1))
    done
    echo "   $label: $(median <"$work/times") s"
}
if [ -n "${BENCH_IMAGES:-}" ]; then images=$(cd "$BENCH_IMAGES" && pwd); else make_images; fi
mkdir -p "$work/layouts"
