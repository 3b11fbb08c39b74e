#!/usr/bin/env bash
# Shows that the attack tests notice when an attack works: builds the tree with every weakness of
# weak/ in it, runs each test that is said to catch one against that, and fails unless each says
# "the attack works". Arguments are names of tests; without, all are run. With `--check` it is only
# looked whether every weakness applies to the tree as it is.
#
# The tree is copied to target/weak, and what is compiled already of third parties is linked to.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cargo=${CARGO:-cargo}
target=${CARGO_TARGET_DIR:-$root/target}
weak=$target/weak

# The files of the tree, each with a NUL behind it; also where it is no checkout of git's.
files() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files -z --cached --others --exclude-standard
    else
        find . \( -path ./target -o -path ./.git \) -prune -o ! -type d -printf '%P\0'
    fi
}

# Makes a copy of the tree in a directory, with every weakness in it.
weaken() {
    files |
        while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done |
        tar --null --files-from=- -cf - | tar -C "$1" -xf -
    for patch in "$here"/weak/*.patch; do
        patch --quiet --batch --directory="$1" --strip=1 --no-backup-if-mismatch <"$patch" || {
            echo "weak.sh: $(basename "$patch") does not apply: make it anew" >&2
            exit 1
        }
    done
}

cd "$root"
if [ "${1-}" = --check ]; then
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    weaken "$copy"
    exit
fi
rm -rf "$weak/new"
mkdir -p "$weak/new" "$weak/tree" "$weak/log"
weaken "$weak/new"
# What is as in the last run keeps its time, so that cargo builds little.
(cd "$weak/tree" && find . ! -type d) | while IFS= read -r file; do
    [ -e "$weak/new/$file" ] || rm "$weak/tree/$file"
done
(cd "$weak/new" && find . ! -type d) | while IFS= read -r file; do
    [ -f "$weak/tree/$file" ] && cmp -s "$weak/new/$file" "$weak/tree/$file" && continue
    mkdir -p "$(dirname "$weak/tree/$file")"
    cp -P -T --remove-destination "$weak/new/$file" "$weak/tree/$file"
done
rm -rf "$weak/new"

if [ ! -d "$weak/target/debug/deps" ] && [ -d "$target/debug/deps" ]; then
    mkdir -p "$weak/target/debug"
    cp -al "$target/debug/deps" "$weak/target/debug/deps"
    cp -a "$target/debug/.fingerprint" "$target/debug/build" "$weak/target/debug/"
    rm -f "$weak"/target/debug/deps/*cofferdam*
fi
if [ ! -d "$weak/guests-build" ] && [ -d "$target/guests-build" ]; then
    cp -al "$target/guests-build" "$weak/guests-build"
    find "$weak/guests-build" -name '*cofferdam*' -prune -exec rm -rf {} +
fi
export COFFERDAM_GUEST_TARGET=$weak/guests-build
cd "$weak/tree"
export CARGO_TARGET_DIR=$weak/target
$cargo build --workspace --all-targets
frontends-wasm/build.sh "$weak/guests" attack-raw-llb probe-c
export COFFERDAM_BIN=$weak/target/debug/cofferdam COFFERDAM_TEST_GUESTS=$weak/guests
attacks=$(ls -t "$weak"/target/debug/deps/attacks-* | grep -v '\.d$' | head -n 1)

cd tests
run() { timeout 600 "$attacks" --nocapture "$1" >"$weak/log/$1" 2>&1; }
if ! run control_an_ordinary_build_works; then
    cat "$weak/log/control_an_ordinary_build_works"
    echo "weak.sh: the weak engine does not even build" >&2
    exit 1
fi
tests=("$@")
[ $# -gt 0 ] || mapfile -t tests < <(sed -n 's/^Caught by: //p' "$here"/weak/*.patch | sort -u)
missed=0
for test in "${tests[@]}"; do
    if ! run "$test" && grep -q 'the attack works' "$weak/log/$test"; then
        echo "caught: $test: $(grep -m 1 -o 'the attack works.*' "$weak/log/$test" | cut -c 19-140)"
    else
        echo "MISSED: $test; see $weak/log/$test"
        missed=$((missed + 1))
    fi
done
echo "weaknesses: ${#tests[@]} tests, $missed of them missed theirs"
[ "$missed" = 0 ]
