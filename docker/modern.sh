#!/usr/bin/env bash
# Runs a command in a Debian 13 root folder: the modern line of packages on a machine whose glibc is too old for it.
#
#   docker/modern.sh make test ARGS=tests/unit
#
# The root folder is made by debootstrap on first use and kept in .cache/modern, with a .venv and a .cache of its own; this checkout is
# /checkout in there, so both lines live side by side in one checkout. The network is the machine's, and so are the settings of its package
# clients and the jars of ~/.cache/tandem. All mounts are made in a mount namespace of our own, all processes run in a PID namespace of our
# own: whatever way this ends, the kernel takes both back, and nothing stays mounted or running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
kept=$PWD/.cache/modern
root=$kept/root
SUITE=trixie
PACKAGES=ca-certificates,g++,git,make,procps,python3,python3-dev,python3-venv,redis-server # g++: TFX's pyfarmhash, without the lock

fail() {
    echo "$1" >&2
    exit 1
}

[ "$(uname -s)" = Linux ] || fail "docker/modern.sh needs Linux, this is $(uname -s); where the modern line fits, plain 'make test' runs it"
[ "$(id -u)" = 0 ] || fail "docker/modern.sh makes a root folder and mounts in it, which takes root; run it as root (sudo), or use a system with glibc 2.39"
[ $# -gt 0 ] || fail "docker/modern.sh runs a command in the root folder; name one, e.g. docker/modern.sh make test ARGS=tests/unit"

if [ "${IN_NAMESPACE:-}" != yes ]; then
    if ! command -v debootstrap >/dev/null; then
        command -v apt-get >/dev/null || fail "debootstrap was not found; install it with this system's package manager"
        { apt-get update -qq && apt-get install -qq -y debootstrap debian-archive-keyring; } </dev/null >/dev/null 2>&1 ||
            fail "debootstrap was not found and apt-get install debootstrap failed; run that by hand to see why"
    fi
    exec env IN_NAMESPACE=yes unshare --mount --propagation private --pid --fork --kill-child "${BASH_SOURCE[0]}" "$@"
fi

mkdir -p "$kept"
exec 9>"$kept/lock"
flock --nonblock 9 || fail "another docker/modern.sh works in $kept; wait until it ends"

# The machine's own mirror where it is a Debian, else debootstrap's default, which is Debian's.
mirror() {
    local ID='' VERSION_CODENAME=''
    . /etc/os-release
    [ "$ID" = debian ] || return 0
    # shellcheck disable=SC2016 # these are apt's words
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v release="$VERSION_CODENAME" '$1 == release && $2 == "main" { print $3; exit }'
}

made="$SUITE $PACKAGES"
if [ "$(cat "$root/etc/tandem-root" 2>/dev/null)" != "$made" ]; then
    echo "making a Debian root folder ($SUITE) in $root"
    rm -rf --one-file-system "$root" "$kept/part" "$kept/venv" "$kept/cache"
    # Nobody reads manuals in there, and a root folder that is half made is thrown away: no need to sync each file.
    mkdir -p "$kept/part/etc/dpkg/dpkg.cfg.d"
    printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' 'path-exclude=/usr/share/locale/*' \
        >"$kept/part/etc/dpkg/dpkg.cfg.d/tandem"
    if command -v apt-config >/dev/null && [ -z "${http_proxy:-}" ]; then
        eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
        [ -z "${http_proxy:-}" ] || export http_proxy
        [ -z "${https_proxy:-}" ] || export https_proxy
    fi
    # shellcheck disable=SC2046 # no mirror is no argument
    debootstrap --variant=minbase --include="$PACKAGES" "$SUITE" "$kept/part" $(mirror) >"$kept/debootstrap.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 1 "$kept/debootstrap.log"); see $kept/debootstrap.log, and run this again"
    rm -f "$kept"/part/var/cache/apt/archives/*.deb
    echo "$made" >"$kept/part/etc/tandem-root"
    mv "$kept/part" "$root"
fi

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
mkdir -p "$kept/venv" "$kept/cache" .venv
share "$PWD" /checkout
share "$kept/venv" /checkout/.venv
share "$kept/cache" /checkout/.cache
# Of a worktree the history lies elsewhere, and its .git says where.
if common=$(git rev-parse --path-format=absolute --git-common-dir 2>/dev/null) && [ "$common" != "$PWD/.git" ]; then share "$common"; fi

# How this machine reaches packages: names, certificates, and the clients' own files and variables.
inside_home=/root
home=${HOME:-$inside_home}
mkdir -p "$home/.cache/tandem" "$home/.cache/uv"
for path in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt /etc/pip.conf /etc/uv; do share "$path"; done
for path in .config/pip .config/uv .pip .m2 .cache/tandem .cache/uv; do share "$home/$path" "$inside_home/$path"; done
carried=(HOME=$inside_home PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 UV_LINK_MODE=copy)
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
