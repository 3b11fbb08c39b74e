#!/usr/bin/env bash
# Installs what is missing for: build, demo, test, lint (arguments). Looks for the programs
# themselves, so that it is quick and silent when nothing is missing and takes no notice of how
# they came to be there. Without root or sudo it says what to install, and fails.
set -euo pipefail

packages=()

# need PROGRAM PACKAGE...: asks for the packages when the program is not there.
need() {
    local program=$1
    shift
    # Debian keeps administration programs in sbin, which users do not have on PATH.
    if ! PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null; then
        packages+=("$@")
    fi
}

# need_file FILE PACKAGE...: the same for something that is no program.
need_file() {
    local file=$1
    shift
    [ -e "$file" ] || packages+=("$@")
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        echo "missing, and neither root nor sudo to install it; as root, run:" >&2
        echo "    $*" >&2
        exit 4
    fi
}

for part in "$@"; do
    case $part in
    build)
        # SQLite and zstd are compiled from C; the C sample components need clang and wasi-libc.
        need cc gcc libc6-dev
        need clang clang
        need wasm-ld lld
        need_file /usr/lib/wasm32-wasi/libc.a wasi-libc
        ;;
    demo)
        # busybox-static cannot be installed beside busybox: scripts/busybox-layout.sh downloads it.
        need umoci umoci
        need runc runc
        need sha256sum coreutils
        need gzip gzip
        ;;
    test)
        need docker-registry docker-registry
        need skopeo skopeo
        need mmdebstrap mmdebstrap
        need chroot coreutils
        need bzip2 bzip2
        need xz xz-utils
        need zstd zstd
        need git git
        need ssh-agent openssh-client
        need ssh-keygen openssh-client
        need openssl openssl
        need tmux tmux
        need mkfs.ext4 e2fsprogs
        need losetup mount
        need setpriv util-linux
        need newuidmap uidmap
        need slirp4netns slirp4netns
        need pasta passt
        need qemu-aarch64-static qemu-user-static
        need cmp diffutils
        need faketime faketime
        need bsdtar libarchive-tools
        need python3 python3
        # The OCI specification's JSON schemas, and what checks documents against them.
        need_file /usr/lib/python3/dist-packages/jsonschema python3-jsonschema
        need_file /usr/share/gocode/src/github.com/opencontainers/image-spec/schema \
            golang-github-opencontainers-image-spec-dev
        ;;
    lint)
        # Weaknesses are applied to a copy of the tree.
        need git git
        need patch patch
        ;;
    *)
        echo "setup.sh: unknown part \`$part\`: expected build, demo, test or lint" >&2
        exit 2
        ;;
    esac
done

if [ ${#packages[@]} -gt 0 ]; then
    echo "installing: ${packages[*]}" >&2
    # Package lists may be absent (containers) or old; install first, and update only if that fails.
    if ! as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${packages[@]}"; then
        as_root apt-get update -q
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -q --no-install-recommends "${packages[@]}"
    fi
fi

# The target of the components: rustup's, or else Debian's compiler, which brings its own.
sysroot=$(rustc --print sysroot)
if [ ! -d "$sysroot/lib/rustlib/wasm32-wasip2" ]; then
    if command -v rustup >/dev/null && rustup target add wasm32-wasip2 >&2; then
        :
    elif [ ! -x /usr/bin/rustc ] ||
        [ ! -d "$(/usr/bin/rustc --print sysroot)/lib/rustlib/src/rust/library" ]; then
        echo "rustup has no wasm32-wasip2: installing Debian's compiler for the components" >&2
        as_root apt-get install -y -q --no-install-recommends rustc-web rust-web-src wasi-libc
    fi
fi

for part in "$@"; do
    if [ "$part" = lint ]; then
        # cargo deny is a program of its own; scripts/deny.sh says so when it is missing.
        if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
            rustup component add clippy rustfmt >&2 ||
                echo "clippy and rustfmt are missing, and rustup cannot install them" >&2
        fi
    fi
done
