#!/bin/sh
# Installs the real registry and the real clients that tests/real_clients uses.
#
#   sudo tests/support/install-real-parts.sh
#
# For Debian and what descends from it. Needs root and apt; does nothing, in
# milliseconds, when every part is there already. Nothing is left running: the
# tests start their own daemons with their own state.
set -eu

# The tests look for the parts in the distribution's own directories only.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

# command:package, one line each.
parts='
dockerd:docker.io
docker:docker.io
containerd:containerd
ctr:containerd
runc:runc
podman:podman
conmon:conmon
skopeo:skopeo
docker-registry:docker-registry
busybox:busybox-static
iptables:iptables
strace:strace
setpriv:util-linux
'

# Prints the packages whose command is not there. On some releases the
# docker.io package holds the daemon only and the client is docker-cli.
missing() {
    for part in $parts; do
        if ! command -v "${part%%:*}" >/dev/null 2>&1; then
            package=${part#*:}
            if [ "${part%%:*}" = docker ] && apt-cache show docker-cli >/dev/null 2>&1; then
                package=docker-cli
            fi
            echo "$package"
        fi
    done | sort -u
    # A busybox that is linked dynamically cannot run in an empty image.
    if ! dpkg-query -W -f '${Status}' busybox-static 2>/dev/null | grep -q 'ok installed'; then
        echo busybox-static
    fi
}

# Without this, installing a package would start its service at once.
policy=/usr/sbin/policy-rc.d
kept=

forbid_services() {
    if [ -e "$policy" ]; then
        kept=$(mktemp "$policy.XXXXXX")
        cp -p "$policy" "$kept"
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
}

restore_policy() {
    if [ -n "$kept" ]; then
        mv "$kept" "$policy"
    else
        rm -f "$policy"
    fi
}

[ "$(id -u)" -eq 0 ] || { echo "install-real-parts: must run as root" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "install-real-parts: needs apt-get" >&2; exit 1; }

[ -n "$(missing)" ] || exit 0

# Test processes may ask at the same time: one installs, the others wait.
exec 9>/run/lock/transship-real-parts
flock 9
[ -n "$(missing)" ] || exit 0

forbid_services
trap restore_policy EXIT
trap 'exit 1' HUP INT TERM

export DEBIAN_FRONTEND=noninteractive
# Another apt on the machine is waited for, not failed on.
apt_get() { apt-get -q -o DPkg::Lock::Timeout=300 "$@" 9>&-; }
apt_get update
# Asked after the update, because a fresh machine knows no packages before it.
packages=$(missing)
# shellcheck disable=SC2086 # one word per package
apt_get install --yes --no-install-recommends $packages

left=$(missing | tr '\n' ' ')
if [ -n "$left" ]; then
    echo "install-real-parts: still missing after installation: $left" >&2
    exit 1
fi
