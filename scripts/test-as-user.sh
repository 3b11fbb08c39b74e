#!/bin/sh
# Runs the end-to-end tests as an ordinary user (scripts/as-user.sh): `test-as-user.sh [--alone] E2E [FILTER...]`
# with the built test program. Tests of what only root can do say so and end. With `--alone`, every test
# has to pass or to be told that a RUN cannot be run there. The program under test is $COFFERDAM_BIN.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
alone=
if [ "$1" = --alone ]; then
    alone=--alone
    shift
fi
e2e=$1
shift
place=$(mktemp -d /var/tmp/cofferdam-as-user.XXXXXX)
trap 'rm -rf "$place"' EXIT
mkdir "$place/home" "$place/tmp" "$place/run"
# Where the user can read them, and write beside them.
cp "$e2e" "$place/e2e"
cp "$COFFERDAM_BIN" "$place/cofferdam"
[ -z "${COFFERDAM_TEST_GUESTS:-}" ] || cp -r "$COFFERDAM_TEST_GUESTS" "$place/guests"
cp -a "${COFFERDAM_TEST_CACHE:-/var/cache/cofferdam-tests}" "$place/cache"
chown -R 64000:64000 "$place"
status=0
AS_USER_HOME=$place/home "$here/as-user.sh" $alone env HOME="$place/home" TMPDIR="$place/tmp" \
    XDG_RUNTIME_DIR="$place/run" COFFERDAM_TEST_CACHE="$place/cache" \
    COFFERDAM_BIN="$place/cofferdam" COFFERDAM_TEST_GUESTS="$place/guests" \
    ${alone:+COFFERDAM_TEST_ALONE=1} \
    "$place/e2e" "$@" > "$place/log" 2>&1 || status=$?
cat "$place/log"
[ -n "$alone" ] || exit "$status"
# What each failed test printed begins with its name and ends with the next one's.
awk '/^---- .* stdout ----$/ { if (name != "" && !told) { print "failed: " name; bad = 1 }
                              name = $2; told = 0 }
     /a RUN cannot be run here|needs root/ { told = 1 }
     /^failures:$/ && name != "" { if (!told) { print "failed: " name; bad = 1 } name = "" }
     END { exit bad }' "$place/log"
