#!/usr/bin/env bash
# Builds examples/hello into an OCI archive with no registry at hand and runs the result.
# Usage: demo.sh COFFERDAM DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/.."
cofferdam=$1
out=$2

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '\n%s\n' "$*"; }

mkdir -p "$out"
out=$(cd "$out" && pwd)
scripts/busybox-layout.sh "$out/tools"

say "examples/hello/Dockerfile:"
sed 's/^/    /' examples/hello/Dockerfile

build() {
    "$cofferdam" build examples/hello --root "$out/state" \
        --build-context "tools=oci-layout://$out/tools:latest" \
        --output "type=oci,dest=$out/hello.tar,name=hello:latest" --progress plain "$@"
}
say "cofferdam build examples/hello --output type=oci,dest=$out/hello.tar,name=hello:latest"
build
say "once more, nothing changed:"
build

say "the image, unpacked by umoci:"
rm -rf "$out/layout" "$out/bundle"
mkdir "$out/layout"
tar -xf "$out/hello.tar" -C "$out/layout"
tag=$(umoci list --layout "$out/layout" | head -1)
rootless=()
[ "$(id -u)" = 0 ] || rootless=(--rootless)
umoci unpack "${rootless[@]}" --image "$out/layout:$tag" "$out/bundle"
(cd "$out/bundle/rootfs" && find . -mindepth 1 -printf '    %M %U:%G %p %l\n' | sort -k3)

say "and running:"
# A bundle asks for a terminal, which a build log does not have.
sed -i 's/"terminal": *true/"terminal": false/' "$out/bundle/config.json"
runc=$(PATH=$PATH:/usr/sbin command -v runc || true)
if [ -z "$runc" ] || ! "$runc" run --bundle "$out/bundle" "cofferdam-demo-$$" 2>"$out/runc.log"; then
    # Where containers cannot be nested, the program alone still runs.
    if [ "$(id -u)" = 0 ]; then
        chroot "$out/bundle/rootfs" /bin/hello
    else
        unshare --user --map-root-user chroot "$out/bundle/rootfs" /bin/hello
    fi
fi
say "the image is in $out/hello.tar"
