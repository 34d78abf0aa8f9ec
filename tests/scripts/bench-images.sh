#!/bin/sh
# Import and unpack of an image of eight layers, gzip and zstd. Peers that are
# not installed are left out, and that is said. Prints figures and judges
# nothing.
set -eu
. "$(dirname "$0")/ground.sh"

ours() {
    seconds "$bin" --root "$work/fs/a/root" --state "$work/fs/a/state" \
        image import "$1" --name app
}
by_ctr() { by_containerd seconds ctr --address "$ctr_sock" image import "$1.tar"; }
by_podman() {
    seconds podman --root "$work/fs/a/root" --runroot "$work/fs/a/run" \
        --storage-driver overlay load -q -i "$1.tar"
}
by_umoci() { seconds umoci unpack --image "$1:latest" "$work/fs/a/bundle"; }
for kind in gzip zstd; do
    layout=$images/app-$kind
    [ -d "$layout" ] || continue
    cp -rL "$layout" "$work/layouts/app-$kind"
    layout=$work/layouts/app-$kind
    tar -C "$layout" -cf "$layout.tar" .
    echo "import and unpack, $kind, $(du -sm "$layout" | cut -f1) MB compressed, median of $rounds:"
    for peer in ours:containerkit by_ctr:containerd by_podman:podman by_umoci:umoci; do
        program=${peer#*:}
        [ "$program" = containerkit ] || installed "$program" || continue
        if [ "$program-$kind" = umoci-zstd ]; then
            echo "   umoci: left out, it knows no zstd"
            continue
        fi
        measure "$program" "${peer%%:*}" "$layout"
    done
done
