#!/bin/sh
# Builds guest components for wasm32-wasip2.
#
#   frontends-wasm/build.sh OUT_DIR [NAME…]
#
# writes OUT_DIR/NAME.wasm; without names, every guest that there is. Uses rustup's wasm target if
# it is installed, else Debian's compiler and wasi-libc (see below). The target directory is the
# guests' own (COFFERDAM_GUEST_TARGET), so that a cargo which waits for this script holds no
# lock that the cargo in here waits for.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
target=wasm32-wasip2

rust_attacks="endless-loop forbidden-import huge-list memory-bomb probe raw-llb stack-overflow trap"

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

[ $# -ge 1 ] || fail "usage: frontends-wasm/build.sh OUT_DIR [NAME…]"
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
if [ $# -eq 0 ]; then
    set -- dockerfile file-op toml-image minimal-c probe-rust probe-c
    for attack in $rust_attacks; do set -- "$@" "attack-$attack"; done
fi
build_dir=${COFFERDAM_GUEST_TARGET:-$root/target/guests-build}

# What the cargo around this one (that of a build script) set for itself is not meant for us.
for variable in $(env | sed -n 's/^\(CARGO_[A-Z0-9_]*\|RUSTFLAGS\|RUSTC\|RUSTC_[A-Z_]*\|RUSTDOC\|TARGET\|HOST\|PROFILE\|OPT_LEVEL\|DEBUG\)=.*/\1/p'); do
    case $variable in
    CARGO_HOME | CARGO_NET_* | CARGO_HTTP_* | CARGO_REGISTR* | CARGO_SOURCE_*) ;;
    CARGO) cargo=$CARGO ;;
    *) unset "$variable" ;;
    esac
done
cargo=${cargo:-cargo}
rustc=$(command -v rustc || true)
sysroot() { "$1" --print sysroot 2>/dev/null || true; }

# Chooses the compiler once, and only if something in Rust is asked for.
choose_rust() {
    [ -z "${chosen:-}" ] || return 0
    chosen=yes
    extra=
    [ -n "$rustc" ] || fail "no rustc: install Rust 1.95 or newer, see https://rustup.rs"
    own=$(sysroot "$rustc")
    if [ -d "$own/lib/rustlib/$target" ]; then
        return 0
    fi
    # Debian has no compiled std for this target, but its source and its libc: std is built
    # along, with Debian's compiler, which its source belongs to, and this toolchain's linker.
    linker=$(ls "$own"/lib/rustlib/*/bin/wasm-component-ld 2>/dev/null | head -n 1)
    if [ -x /usr/bin/rustc ] && [ -d /usr/lib/wasm32-wasi ] && [ -d "$(sysroot /usr/bin/rustc)/lib/rustlib/src/rust/library" ] && [ -n "$linker" ]; then
        export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
        export CARGO_TARGET_WASM32_WASIP2_LINKER="$linker"
        PATH="$(dirname "$linker")/gcc-ld:$PATH"
        export CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS="-L native=/usr/lib/wasm32-wasi"
        extra="-Zbuild-std=std,panic_abort"
        return 0
    fi
    fail "cannot compile for $target. Install either
  rustup target add $target
or, without rustup's servers,
  apt-get install --no-install-recommends rustc-web rust-web-src wasi-libc"
}

# rust NAME MANIFEST PACKAGE [--bins]: builds a package and puts its component in place.
rust() {
    choose_rust
    # shellcheck disable=SC2086 # `extra` is a list of words
    "$cargo" build --quiet --manifest-path "$2" --package "$3" "${4:---lib}" \
        --profile guest --target $target --target-dir "$build_dir" $extra
    case ${4:-} in
    --bins) place "$build_dir/$target/guest/$3.wasm" "$1" ;;
    *) place "$build_dir/$target/guest/$(echo "$3" | tr - _).wasm" "$1" ;;
    esac
}

# Leaves a file alone that is right already, so that what depends on it is not built again; else
# replaces it at once, as several of these scripts may run at the same time.
place() {
    cmp -s "$1" "$out/$2.wasm" && return 0
    cp "$1" "$out/$2.$$.tmp"
    mv "$out/$2.$$.tmp" "$out/$2.wasm"
}

for name in "$@"; do
    case $name in
    dockerfile | file-op) rust "$name" "$root/Cargo.toml" "cofferdam-$name" ;;
    attack-*) rust "$name" "$here/attacks/Cargo.toml" "$name" ;;
    toml-image) rust "$name" "$root/examples/frontends/toml-image/Cargo.toml" toml-image ;;
    minimal-c)
        mkdir -p "$build_dir/minimal-c"
        "$root/examples/frontends/minimal-c/build.sh" "$build_dir/minimal-c/$$.wasm"
        place "$build_dir/minimal-c/$$.wasm" minimal-c
        rm "$build_dir/minimal-c/$$.wasm"
        ;;
    probe-rust) rust "$name" "$root/tests/programs/probe-rust/Cargo.toml" "$name" --bins ;;
    probe-c)
        # A module, which clang links itself; its helper functions come with no wasm target of
        # Debian's, and this program needs none.
        "${CLANG:-clang}" --target=wasm32-wasi --sysroot=/usr -I/usr/include/wasm32-wasi -Os \
            -nodefaultlibs -L/usr/lib/wasm32-wasi "$root/tests/programs/probe-c.c" -lc \
            -o "$build_dir/probe-c.$$.wasm"
        place "$build_dir/probe-c.$$.wasm" probe-c
        rm "$build_dir/probe-c.$$.wasm"
        ;;
    *) fail "no guest is called '$name'" ;;
    esac
done
