#!/usr/bin/env bash
# Runs a command in a Debian 13 root folder: the modern line of packages on a machine whose glibc is too old for it.
#
#   docker/modern.sh make test ARGS=tests/unit
#   MODERN_PYTHON=~/.pyenv/versions/3.12.1/bin/python3 docker/modern.sh make test ARGS=tests/unit
#
# MODERN_PYTHON names an interpreter of this machine that takes the place of Debian's 3.13 inside. It stands in a folder of its own (made by
# pyenv, uv or from source), which is the same one inside, and has a .venv and a .cache of its own too.
#
# The root folder is made on first use (docker/debian.sh) and kept in .cache/modern, with a .venv and a .cache of its own; this checkout is
# /checkout in there, so both lines live side by side in one checkout. The network is the machine's, and so are the settings of its package
# clients and the jars of ~/.cache/tandem. All mounts are made in a mount namespace of our own, all processes run in a PID namespace of our
# own: whatever way this ends, the kernel takes both back, and nothing stays mounted or running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kept=$PWD/.cache/modern
root=$kept/root
PACKAGES=ca-certificates,g++,git,make,procps,python3,python3-dev,python3-venv,redis-server # g++: TFX's pyfarmhash, without the lock

fail() {
    echo "$1" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "docker/modern.sh needs Linux, this is $(uname -s); where the modern line fits, plain 'make test' runs it"
[ "$(id -u)" = 0 ] || fail "docker/modern.sh makes a root folder and mounts in it, which takes root; run it as root (sudo), or use a system with glibc 2.39"
[ $# -gt 0 ] || fail "docker/modern.sh runs a command in the root folder; name one, e.g. docker/modern.sh make test ARGS=tests/unit"

if [ "${IN_NAMESPACE:-}" != yes ]; then
    exec env IN_NAMESPACE=yes unshare --mount --propagation private --pid --fork --kill-child "${BASH_SOURCE[0]}" "$@"
fi

version=''
if [ -n "${MODERN_PYTHON:-}" ]; then
    about=$("$MODERN_PYTHON" -c 'import os, sys
print("-%d.%d" % sys.version_info[:2], *map(os.path.realpath, (sys.base_prefix, sys.executable)), sep="\n")' 2>/dev/null) ||
        fail "MODERN_PYTHON=$MODERN_PYTHON does not run here; name a Python 3.12 or 3.13 of this machine"
    { read -r version && read -r prefix && read -r interpreter; } <<<"$about"
    case "$version $prefix" in
    *" /usr") fail "MODERN_PYTHON=$MODERN_PYTHON is this system's own, in /usr; name one in a folder of its own (pyenv, uv)" ;;
    "-3.12 "* | "-3.13 "*) ;;
    *) fail "MODERN_PYTHON=$MODERN_PYTHON is Python ${version#-}; name a 3.12 or 3.13" ;;
    esac
fi

mkdir -p "$kept"
exec 9>"$kept/lock"
flock --nonblock 9 || fail "another docker/modern.sh works in $kept; wait until it ends"

found=$(cat "$root/etc/tandem-root" 2>/dev/null || true)
docker/debian.sh "$root" "$PACKAGES"
[ "$found" = "$(cat "$root/etc/tandem-root")" ] || rm -rf --one-file-system "$kept"/venv* "$kept"/cache* # of another root folder, or of none

share() { # PATH [INSIDE]: the same file or folder inside, if there is one
    local to=$root${2:-$1}
    if [ -d "$1" ]; then
        mkdir -p "$to"
    elif [ -e "$1" ]; then
        mkdir -p "$(dirname "$to")"
        [ -e "$to" ] || : >"$to"
    else
        return 0
    fi
    mount --bind "$1" "$to"
}

mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mkdir -p "$root/dev/shm"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
find "$root/tmp" -mindepth 1 -delete

# The checkout, and over its .venv and .cache those of the modern line.
mkdir -p "$kept/venv$version" "$kept/cache$version" .venv
share "$PWD" /checkout
share "$kept/venv$version" /checkout/.venv
share "$kept/cache$version" /checkout/.cache
# Of a worktree the history lies elsewhere, and its .git says where.
if common=$(git rev-parse --path-format=absolute --git-common-dir 2>/dev/null) && [ "$common" != "$PWD/.git" ]; then share "$common"; fi

# How this machine reaches packages: names, certificates, and the clients' own files and variables.
inside_home=/root
home=${HOME:-$inside_home}
mkdir -p "$home/.cache/tandem" "$home/.cache/uv"
for path in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /etc/uv; do share "$path"; done
for path in .config/pip .config/uv .pip .m2 .cache/tandem .cache/uv; do share "$home/$path" "$inside_home/$path"; done
carried=("HOME=$inside_home" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 UV_LINK_MODE=copy)
if [ -n "$version" ]; then
    share "$prefix"
    carried+=("PYTHON=$interpreter")
fi
for name in $(compgen -e); do
    case "$name" in
    PIP_* | UV_* | SSL_CERT_* | *_CA_BUNDLE | *_CA_CERTS | *_proxy | *_PROXY | OPENBLAS_* | CI | TERM)
        carried+=("$name=${!name}")
        [ "${!name:0:1}" != / ] || share "${!name}"
        ;;
    esac
done

# Not exec: as the first process of its PID namespace this shell also buries orphans.
status=0
# shellcheck disable=SC2016 # for the shell inside
chroot "$root" env -i "${carried[@]}" sh -c 'cd /checkout && exec "$@"' sh "$@" || status=$?
exit $status
