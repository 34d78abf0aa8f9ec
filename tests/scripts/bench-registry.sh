#!/bin/sh
# Pull and unpack from a local docker-registry, push to one, and what a pull
# moves that follows on one killed at 90 %; the same image as bench-images.sh.
# Peers that are not installed are left out, and that is said. Prints figures
# and judges nothing.
set -eu
. "$(dirname "$0")/ground.sh"
unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY

# A registry with nothing in it, on a port of its own: $address.
empty_registry() {
    stop "$registry"
    rm -rf "$work/registry" && mkdir "$work/registry"
    : >"$work/registry.log"
    printf '%s' '{"version": "0.1", "log": {"accesslog": {"disabled": true}},' \
        '"storage": {"filesystem": {"rootdirectory": "'"$work/registry"'"}},' \
        '"http": {"addr": "127.0.0.1:0"}}' >"$work/registry.json"
    OTEL_TRACES_EXPORTER=none docker-registry serve "$work/registry.json" >"$work/registry.log" 2>&1 &
    registry=$!
    until grep -q 'listening on' "$work/registry.log"; do
        kill -0 "$registry" 2>/dev/null || { echo "bench: docker-registry does not start" >&2 && exit 1; }
        sleep 0.1
    done
    address=$(sed -n 's/.*listening on \([0-9.:]*\).*/\1/p' "$work/registry.log" | head -n 1)
}

kit() { "$bin" --root "$work/fs/a/root" --state "$work/fs/a/state" "$@"; }
pull_ours() { seconds kit image pull --plain-http "$address/app:latest"; }
pull_ctr() {
    by_containerd seconds ctr --address "$ctr_sock" image pull --plain-http "$address/app:latest"
}
pull_podman() {
    seconds podman --root "$work/fs/a/root" --runroot "$work/fs/a/run" --storage-driver overlay \
        pull -q --tls-verify=false "docker://$address/app:latest"
}
copy_and_unpack() {
    skopeo --insecure-policy copy -q --src-tls-verify=false \
        "docker://$address/app:latest" "oci:$work/fs/a/layout:latest" &&
        umoci unpack --image "$work/fs/a/layout:latest" "$work/fs/a/bundle"
}
pull_skopeo() { seconds copy_and_unpack; }

push_ours() {
    empty_registry
    kit image import --no-unpack "$1" --name app >"$work/log" 2>&1
    sync -f "$work/fs"
    seconds kit image push --plain-http app "$address/app:latest"
}
seed() {
    skopeo --insecure-policy copy -q --dest-tls-verify=false "oci:$1:latest" "docker://$address/app:latest"
}
push_skopeo() {
    empty_registry
    seconds seed "$1"
}

# Bytes that came over the loopback so far.
moved() {
    while read -r name bytes _; do
        [ "$name" != lo: ] || total=$bytes
    done </proc/net/dev
}
# A pull killed when so many percent of the image's bytes came, and the next.
resume() {
    fresh
    moved && begun=$total
    # Not by the function: $! is to be the command itself.
    "$bin" --root "$work/fs/a/root" --state "$work/fs/a/state" \
        image pull --plain-http "$address/app:latest" >"$work/log" 2>&1 &
    pull=$!
    until moved && [ $((total - begun)) -ge $((size * 90 / 100)) ]; do
        kill -0 "$pull" 2>/dev/null || break
    done
    kill -KILL "$pull" 2>/dev/null || true
    wait "$pull" 2>/dev/null || true
    moved && cut=$((total - begun)) && begun=$total
    kit image pull --plain-http "$address/app:latest" >"$work/log" 2>&1
    moved
    awk "BEGIN { printf \"   cut when %.0f %% of the bytes had come; the next pull moved %.0f %%\\n\", \
        100 * $cut / $size, 100 * ($total - $begun) / $size }"
}

installed docker-registry skopeo || exit 0
for kind in gzip zstd; do
    [ -d "$images/app-$kind" ] || continue
    layout=$work/layouts/app-$kind
    cp -rL "$images/app-$kind" "$layout"
    size=$(du -sb "$layout/blobs" | cut -f1)
    empty_registry
    seed "$layout"
    echo "pull and unpack from a local registry, $kind, $((size >> 20)) MB compressed, median of $rounds:"
    measure containerkit pull_ours
    ! installed containerd ctr || measure "ctr image pull" pull_ctr
    ! installed podman || measure "podman pull" pull_podman
    if [ $kind = zstd ]; then
        echo "   umoci: left out, it knows no zstd"
    else
        ! installed umoci || measure "skopeo copy + umoci unpack" pull_skopeo
    fi
    echo "the same, killed:"
    resume
    echo "push to an empty local registry, $kind:"
    measure containerkit push_ours "$layout"
    measure "skopeo copy" push_skopeo "$layout"
done
