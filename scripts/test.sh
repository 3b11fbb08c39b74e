#!/usr/bin/env bash
# Runs every test of the workspace and ends with the totals. The program under test is
# $COFFERDAM_BIN; the sample and hostile components come from frontends-wasm/build.sh.
set -uo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

if [ -z "${COFFERDAM_TEST_GUESTS:-}" ]; then
    COFFERDAM_TEST_GUESTS=${CARGO_TARGET_DIR:-$PWD/target}/guests
    frontends-wasm/build.sh "$COFFERDAM_TEST_GUESTS" || exit
fi
export COFFERDAM_TEST_GUESTS

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if $cargo nextest --version >/dev/null 2>&1; then
    $cargo nextest run --workspace --no-fail-fast --config-file .ci/nextest.toml "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    totals=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -E '^ *Summary' | tail -1 | sed 's/^ *Summary *//')
else
    $cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    totals=$(awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
        END { printf "%d passed, %d failed, %d ignored", passed, failed, ignored }' "$log")
fi
echo "test totals: ${totals:-none were run}"
exit "$status"
