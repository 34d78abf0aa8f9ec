#!/bin/sh
# Import and unpack of an image of eight layers, gzip and zstd, each round on a
# fresh ext4 file system on a loop device in a tmpfs: on the machine's own disk
# creating files is slow for minutes after a big delete. Peers that are not
# installed are left out, and that is said. Prints figures and judges nothing.
#
# BENCH_IMAGES=DIR takes the layouts DIR/app-gzip and DIR/app-zstd (ref name
# `latest`); without it the layers are made of this machine's own /usr.
set -eu
: "${SUDO=}"
stage=$(cd "${1:?give the stage}" && pwd)
rounds=${ROUNDS:-3}
# In a mount namespace of its own: whatever ends this, its mounts end with it.
if [ "${CONTAINERKIT_BENCH_INSIDE:-}" != yes ]; then
    exec $SUDO env CONTAINERKIT_BENCH_INSIDE=yes "BENCH_IMAGES=${BENCH_IMAGES:-}" "ROUNDS=$rounds" \
        unshare -m --propagation private "$0" "$stage"
fi
bin=$stage/bin/containerkit
work=$(mktemp -d /tmp/containerkit-bench.XXXXXX)
daemon=
end() {
    [ -z "$daemon" ] || { kill "$daemon" && wait "$daemon"; } 2>/dev/null || true
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

ours() {
    seconds "$bin" --root "$work/fs/a/root" --state "$work/fs/a/state" \
        image import "$1" --name app
}
by_ctr() {
    mkdir -p "$work/fs/a/run"
    printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$work/containerd.toml"
    containerd --config "$work/containerd.toml" --root "$work/fs/a/root" --state "$work/fs/a/run" \
        --address "$work/fs/a/run/sock" >"$work/daemon" 2>&1 &
    daemon=$!
    until ctr --address "$work/fs/a/run/sock" version >/dev/null 2>&1; do
        kill -0 "$daemon" 2>/dev/null || { echo "bench: containerd does not start" >&2 && return 1; }
        sleep 0.1
    done
    status=0
    seconds ctr --address "$work/fs/a/run/sock" image import "$1.tar" || status=1
    kill "$daemon" && wait "$daemon" 2>/dev/null || true
    daemon=
    return $status
}
by_podman() {
    seconds podman --root "$work/fs/a/root" --runroot "$work/fs/a/run" \
        --storage-driver overlay load -q -i "$1.tar"
}
by_umoci() { seconds umoci unpack --image "$1:latest" "$work/fs/a/bundle"; }
if [ -n "${BENCH_IMAGES:-}" ]; then images=$(cd "$BENCH_IMAGES" && pwd); else make_images; fi
for kind in gzip zstd; do
    layout=$images/app-$kind
    [ -d "$layout" ] || continue
    mkdir -p "$work/layouts"
    cp -rL "$layout" "$work/layouts/app-$kind"
    layout=$work/layouts/app-$kind
    tar -C "$layout" -cf "$layout.tar" .
    echo "import and unpack, $kind, $(du -sm "$layout" | cut -f1) MB compressed, median of $rounds:"
    for peer in ours:containerkit by_ctr:containerd by_podman:podman by_umoci:umoci; do
        program=${peer#*:}
        if [ "$program" != containerkit ] && ! command -v "$program" >/dev/null 2>&1; then
            echo "   $program: not installed, left out (apt-get install $program)"
            continue
        fi
        if [ "$program-$kind" = umoci-zstd ]; then
            echo "   umoci: left out, it knows no zstd"
            continue
        fi
        : >"$work/times"
        i=0
        while [ $i -lt "$rounds" ]; do
            fresh
            "${peer%%:*}" "$layout" >>"$work/times" || break
            i=$((i + 1))
        done
        [ $i -lt "$rounds" ] || echo "   $program: $(median <"$work/times") s"
    done
done
