#!/bin/sh
# Which of the two lines of packages fits this machine, and with which Python. Prints three lines: the lock, the interpreter, and
# the choice with its reason.  line.sh PYTHON EARLIER
#   PYTHON   what `make PYTHON=...` said, or nothing: then this script chooses
#   EARLIER  the file with the answer of last time: without PYTHON it stays as long as its interpreter runs
set -eu
python=$1
earlier=$2
NEEDED=39 # the modern line's ml-metadata and tensorflow-data-validation are linked against glibc 2.39

fail() {
    echo "$1" >&2
    exit 1
}

# "3.12 /path/of/it" of an interpreter that can make environments; nothing else runs here (a pyenv shim may be there and not run)
about() {
    "$1" -c 'import ensurepip, venv, sys; print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null || true
}

answer() { # LINE INTERPRETER REASON
    [ "$1" = modern ] && lock=requirements-modern.lock || lock=requirements.lock
    printf '%s\n%s\n%s line (%s): %s\n' "$lock" "$2" "$1" "$("$2" -V)" "$3"
    exit 0
}

case "$(uname -s) $(uname -m)" in
"Linux x86_64")
    glibc=$(getconf GNU_LIBC_VERSION 2>/dev/null) || fail "this Linux has no glibc, and TensorFlow no packages for it; use one that has, e.g. Debian"
    glibc=${glibc#glibc }
    system="glibc is $glibc"
    [ "${glibc#2.}" -ge $NEEDED ] && modern=yes || modern=no
    older=yes
    ;;
"Darwin arm64")
    system="macOS on arm64" modern=yes older=no
    ;;
*)
    fail "neither line has packages for $(uname -s) on $(uname -m) (tfx-bsl); use Linux on x86_64 or macOS on arm64"
    ;;
esac

if [ -n "$python" ]; then
    command -v "$python" >/dev/null 2>&1 || fail "PYTHON=$python was not found; install Python 3.11 to 3.13, or name another"
    found=$(about "$python")
    [ -n "$found" ] || fail "PYTHON=$python cannot make virtual environments; install its venv package (Debian: python3-venv), or name another"
    case "${found%% *}" in
    3.12 | 3.13)
        [ "$modern" = yes ] || fail "PYTHON=$python takes the modern line, which needs glibc 2.$NEEDED, and here $system; take Python 3.11, or: make modern"
        answer modern "${found#* }" "PYTHON=$python asks for it"
        ;;
    3.11)
        [ "$older" = yes ] || fail "PYTHON=$python takes the older line, which has no packages for $system; name a Python 3.12 or 3.13"
        answer older "${found#* }" "PYTHON=$python asks for it"
        ;;
    *) fail "PYTHON=$python is Python ${found%% *}; name one of 3.11 (older line), 3.12 or 3.13 (modern line)" ;;
    esac
fi

if [ -s "$earlier" ] && [ -n "$(about "$(sed -n 2p "$earlier")")" ]; then
    cat "$earlier"
    exit 0
fi

if [ "$modern" = yes ]; then
    for candidate in python3.13 python3.12 python3; do
        found=$(about $candidate)
        case "${found%% *}" in
        3.12 | 3.13) answer modern "${found#* }" "$system, Python ${found%% *} is here" ;;
        esac
    done
fi
if [ "$older" = yes ]; then
    [ "$modern" = yes ] && why="no Python 3.12 or 3.13 with venv was found" || why="$system, the modern line needs 2.$NEEDED"
    for candidate in python3.11 python3; do
        found=$(about $candidate)
        [ "${found%% *}" != 3.11 ] || answer older "${found#* }" "$why"
    done
fi
[ "$modern" = yes ] && wanted="3.12 or 3.13" || wanted="3.11"
fail "$system, and no Python $wanted with venv was found; install one (Debian: python3 and python3-venv), or name it: make PYTHON=/path/to/python"
