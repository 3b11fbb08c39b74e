#!/usr/bin/env bash
# Makes an OCI layout of busybox-static in a directory: the base image of the demo, without a
# registry. Usage: busybox-layout.sh DIRECTORY. Does nothing where the layout is there already.
set -euo pipefail

layout=$1
[ -e "$layout/index.json" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

download() {
    (cd "$work" && apt-get download -q busybox-static >&2)
}

# A static busybox: the machine's own, else out of Debian's package.
busybox=$(command -v busybox || true)
linked=$(LC_ALL=C ldd "${busybox:-/nonexistent}" 2>&1 || true)
case $linked in
*"not a dynamic executable"* | *"statically linked"*) ;;
*)
    # A fresh container has no package lists.
    download || { apt-get update -q >&2 && download; }
    dpkg-deb -x "$work"/busybox-static_*.deb "$work/deb"
    busybox=$(find "$work/deb" -path '*bin/busybox' -type f)
    ;;
esac

root=$work/root
mkdir -p "$root"/{bin,dev,etc,proc,root,sys,tmp}
chmod 1777 "$root/tmp"
install -m 0755 "$busybox" "$root/bin/busybox"
"$root/bin/busybox" --list | grep -vx busybox | while read -r applet; do
    ln -s busybox "$root/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
echo 'root:x:0:' >"$root/etc/group"

mkdir -p "$work/layout/blobs/sha256"
# put FILE: moves a file in as a blob and prints its digest.
put() {
    local digest
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    mv "$1" "$work/layout/blobs/sha256/$digest"
    echo "sha256:$digest"
}
# descriptor TYPE FILE: puts the file in and prints its descriptor.
descriptor() {
    local size
    size=$(stat -c %s "$2")
    echo "{\"mediaType\":\"application/vnd.oci.image.$1\",\"digest\":\"$(put "$2")\",\"size\":$size}"
}

tar --sort=name --numeric-owner --owner=0 --group=0 --mtime=@1700000000 \
    -C "$root" -cf "$work/layer.tar" .
diff_id=sha256:$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
gzip -n "$work/layer.tar"
layer=$(descriptor layer.v1.tar+gzip "$work/layer.tar.gz")

case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) architecture=$(uname -m) ;;
esac
cat >"$work/config" <<JSON
{"architecture":"$architecture","os":"linux","created":"2023-11-14T22:13:20Z",
"config":{"Env":["PATH=/bin"],"Cmd":["sh"]},
"rootfs":{"type":"layers","diff_ids":["$diff_id"]},
"history":[{"created":"2023-11-14T22:13:20Z","created_by":"busybox-layout.sh"}]}
JSON
config=$(descriptor config.v1+json "$work/config")
cat >"$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":$config,"layers":[$layer]}
JSON
manifest=$(descriptor manifest.v1+json "$work/manifest")
tag='"annotations":{"org.opencontainers.image.ref.name":"latest"}'
cat >"$work/layout/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",
"manifests":[${manifest%\}},$tag}]}
JSON
echo '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"

mkdir -p "$(dirname "$layout")"
rm -rf "$layout"
cp -r "$work/layout" "$layout"
