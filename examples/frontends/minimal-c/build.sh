#!/bin/sh
# Builds the C frontend: build.sh OUT.wasm
#
# Needs clang with its wasm32 target, and Rust's linker for components, which comes with every
# Rust toolchain; no libc, no WASI.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=$1
fail() {
    echo "minimal-c: $*" >&2
    exit 1
}

clang=${CLANG:-clang}
command -v "$clang" >/dev/null || fail "no clang: apt-get install clang"
linker=$(ls "$(rustc --print sysroot)"/lib/rustlib/*/bin/wasm-component-ld 2>/dev/null | head -n 1)
[ -n "$linker" ] || fail "no wasm-component-ld: install Rust 1.95 or newer, see https://rustup.rs"

objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
for source in frontend runtime bindings/frontend; do
    "$clang" --target=wasm32 -Os -std=c11 -ffreestanding -nostdlib -Wall -Werror \
        -isystem "$here/include" -I "$here/bindings" \
        -c "$here/$source.c" -o "$objects/$(echo $source | tr / -).o"
done
"$linker" --wasm-ld-path "$(dirname "$linker")/gcc-ld/wasm-ld" --wasi-adapter none \
    --component-type "$here/../../../wit/frontend" --no-entry --gc-sections --strip-all \
    -o "$out" "$objects"/*.o
