#!/bin/sh
# `run --rm` of `true` against the bare runtime on the same bundle, in one run:
# medians and the ratio. Prints figures and judges nothing.
set -eu
: "${SUDO=}"
stage=$(cd "${1:?give the stage}" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
bin=$stage/bin/containerkit
rounds=${ROUNDS:-30}
work=$(mktemp -d /tmp/containerkit-bench.XXXXXX)
chmod 0755 "$work"
trap '$SUDO rm -rf "$work"' EXIT INT TERM
"$here/image.sh" "$work/busybox"
cat >"$work/containerkit.toml" <<EOF
version = 1
root = "$work/root"
state = "$work/state"
driver_path = ["$stage/lib/containerkit/drivers"]
EOF
kit() { $SUDO "$bin" --config "$work/containerkit.toml" "$@"; }
kit image import "$work/busybox" --name busybox >/dev/null

# A bundle for the bare runtime with the same image.
mkdir -p "$work/bundle/rootfs"
tar -C "$work/bundle/rootfs" -xzf "$(find "$work/busybox/blobs" -type f -size +100k)"
(cd "$work/bundle" && runc spec && sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"true"/' config.json)

# milliseconds of one command
ms() {
    start=$(date +%s%N)
    "$@" >/dev/null
    echo $((($(date +%s%N) - start) / 10000))
}
median() { sort -n | awk '{ v[NR] = $1 } END { printf "%.2f", v[int((NR + 1) / 2)] / 100 }'; }
: >"$work/bare" && : >"$work/kit"
i=0
while [ $i -lt "$rounds" ]; do
    ms $SUDO runc --root "$work/runc" run --bundle "$work/bundle" "bench-$i" >>"$work/bare"
    ms kit run --rm busybox true >>"$work/kit"
    i=$((i + 1))
done
bare=$(median <"$work/bare")
ours=$(median <"$work/kit")
echo "run --rm true, median of $rounds: runc alone $bare ms, containerkit $ours ms, ratio $(awk "BEGIN { printf \"%.2f\", $ours / $bare }")"
