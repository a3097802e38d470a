#!/usr/bin/env bash
# Makes a Debian 13 root folder by debootstrap, once: docker/debian.sh FOLDER PACKAGE,PACKAGE...
#
# docker/modern.sh runs the modern line of packages in one, and tests/scale make of one the base of Tandem's images where no registry of
# images is reached. Asked again with the same packages it does nothing, with others it makes the folder anew. It takes root.
set -euo pipefail
root=$1
packages=$2
SUITE=trixie
part=$root.part log=$root.log

fail() {
    echo "$1" >&2
    exit 1
}

made="$SUITE $packages"
[ "$(cat "$root/etc/tandem-root" 2>/dev/null)" != "$made" ] || exit 0
[ "$(id -u)" = 0 ] || fail "docker/debian.sh makes a root folder, which takes root; run it as root (sudo)"
if ! command -v debootstrap >/dev/null; then
    command -v apt-get >/dev/null || fail "debootstrap was not found; install it with this system's package manager"
    { apt-get update -qq && apt-get install -qq -y debootstrap debian-archive-keyring; } </dev/null >/dev/null 2>&1 ||
        fail "debootstrap was not found and apt-get install debootstrap failed; run that by hand to see why"
fi

# The machine's own mirror where it is a Debian, else debootstrap's default, which is Debian's.
mirror() {
    local ID='' VERSION_CODENAME=''
    . /etc/os-release
    [ "$ID" = debian ] || return 0
    # shellcheck disable=SC2016 # these are apt's words
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk -v release="$VERSION_CODENAME" '$1 == release && $2 == "main" { print $3; exit }'
}

echo "making a Debian root folder ($SUITE) in $root"
rm -rf --one-file-system "$root" "$part"
# Nobody reads manuals in there, and a root folder that is half made is thrown away: no need to sync each file.
mkdir -p "$part/etc/dpkg/dpkg.cfg.d"
printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/man/*' 'path-exclude=/usr/share/locale/*' \
    >"$part/etc/dpkg/dpkg.cfg.d/tandem"
if command -v apt-config >/dev/null && [ -z "${http_proxy:-}" ]; then
    eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
    [ -z "${http_proxy:-}" ] || export http_proxy
    [ -z "${https_proxy:-}" ] || export https_proxy
fi
# shellcheck disable=SC2046 # no mirror is no argument
debootstrap --variant=minbase --include="$packages" "$SUITE" "$part" $(mirror) >"$log" 2>&1 ||
    fail "debootstrap failed: $(tail -n 1 "$log"); see $log, and run this again"
rm -f "$part"/var/cache/apt/archives/*.deb
echo "$made" >"$part/etc/tandem-root"
mv "$part" "$root"
