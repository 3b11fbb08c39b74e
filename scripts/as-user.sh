#!/bin/sh
# Runs a command as an ordinary user who has a range of subordinate ids: `as-user.sh COMMAND...`; with
# `--alone` first, as one who has none, no capability, and no way to gain any. Needs root. The user
# exists for the command only: the machine's files stay as they are. $AS_USER_HOME is its home.
# Everybody may use /dev/net/tun, as on machines with udev; elsewhere it is often root's alone.
set -eu
mode=ids
if [ "$1" = --alone ]; then
    mode=alone
    shift
fi
files=$(mktemp -d)
trap 'rm -rf "$files"' EXIT
id=64000
: "${AS_USER_HOME:=/nonexistent}"
{ cat /etc/passwd; echo "cofferdam-test:x:$id:$id::$AS_USER_HOME:/bin/sh"; } > "$files/passwd"
{ cat /etc/group; echo "cofferdam-test:x:$id:"; } > "$files/group"
: > "$files/range"
[ "$mode" = alone ] || echo "cofferdam-test:200000:65536" > "$files/range"
mkdir "$files/dev"
chmod 755 "$files"
chmod 644 "$files/passwd" "$files/group" "$files/range"
# shellcheck disable=SC2016 # The inner shell expands these.
AS_USER_FILES=$files AS_USER_ID=$id AS_USER_MODE=$mode unshare --mount sh -c '
    set -eu
    touch -a /etc/subuid /etc/subgid
    mount --bind "$AS_USER_FILES/passwd" /etc/passwd
    mount --bind "$AS_USER_FILES/group" /etc/group
    mount --bind "$AS_USER_FILES/range" /etc/subuid
    mount --bind "$AS_USER_FILES/range" /etc/subgid
    if [ -e /dev/net/tun ]; then
        mount -t tmpfs -o mode=755 tun "$AS_USER_FILES/dev"
        mknod -m 666 "$AS_USER_FILES/dev/tun" c 10 200
        mount --bind "$AS_USER_FILES/dev/tun" /dev/net/tun
    fi
    become="--reuid=$AS_USER_ID --regid=$AS_USER_ID --clear-groups"
    [ "$AS_USER_MODE" = ids ] || become="$become --bounding-set=-all --inh-caps=-all --no-new-privs"
    unset AS_USER_FILES AS_USER_ID AS_USER_MODE
    exec setpriv $become "$@"' sh "$@"
