#!/bin/sh
# The example `stores` on a fresh ext4 file system on a loop device in a tmpfs,
# in a mount namespace that ends with it. Further words are the example's.
set -eu
: "${SUDO=}"
exec $SUDO unshare -m --propagation private sh -euc '
mount -t tmpfs -o size=8g,mode=755 tmpfs /mnt
truncate -s 6g /mnt/disk
mkfs.ext4 -q -F -N 600000 -E lazy_itable_init=0,lazy_journal_init=0 /mnt/disk
mkdir /mnt/fs
mount -o loop /mnt/disk /mnt/fs
program=$1 && shift
exec "$program" /mnt/fs "$@"' sh "$@"
