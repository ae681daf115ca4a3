#!/bin/sh
# Installs the servers that `cargo bench --bench compare` compares with.
#
#   sudo benches/install-rivals.sh
#
# nginx and docker-registry come from Debian (or what descends from it),
# drayage from PyPI into target/rivals. Does nothing when all are there. No
# test needs any of them, and a comparison leaves out what is missing.
set -eu
cd "$(dirname "$0")/.."

missing=
[ -x /usr/sbin/nginx ] || missing="$missing nginx"
[ -x /usr/bin/docker-registry ] || missing="$missing docker-registry"
command -v taskset >/dev/null || missing="$missing util-linux"
command -v ip >/dev/null || missing="$missing iproute2"
[ -x target/rivals/bin/drayage ] || command -v pip >/dev/null || missing="$missing python3-pip"

# Without this, installing a package would start its service at once.
policy=/usr/sbin/policy-rc.d
if [ -n "$missing" ]; then
    [ "$(id -u)" -eq 0 ] || { echo "install-rivals: must run as root to install$missing" >&2; exit 1; }
    command -v apt-get >/dev/null || { echo "install-rivals: needs apt-get to install$missing" >&2; exit 1; }
    made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=yes
    fi
    trap '[ -z "$made" ] || rm -f "$policy"' EXIT
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q -o DPkg::Lock::Timeout=300 update
    # shellcheck disable=SC2086 # one word per package
    apt-get -q -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends $missing
fi

if [ ! -x target/rivals/bin/drayage ]; then
    pip install --quiet --target target/rivals drayage
fi
