#!/usr/bin/env bash
# Checks licences, sources and duplicate crates always, and advisories where their database can be
# fetched: a machine without internet still lints.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

if ! $cargo deny --version >/dev/null 2>&1; then
    echo "cargo deny is not installed: licences are not checked (cargo install cargo-deny)" >&2
    exit 0
fi
$cargo deny check licenses bans sources
if $cargo deny fetch db 2>/dev/null; then
    $cargo deny check advisories
else
    echo "the advisory database cannot be fetched: advisories are not checked" >&2
fi
