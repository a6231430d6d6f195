#!/bin/bash
# Debian's programs that tests of a cluster start; nothing where all are there.
set -euo pipefail
missing=()
need() { command -v "$1" > /dev/null || missing+=("$2"); }
need chromium chromium
need ip iproute2
need sshd openssh-server
need ssh openssh-client
need rsync rsync
need curl curl
[ -n "$(compgen -G '/usr/lib/postgresql/*/bin/postgres')" ] || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ]; then
    # a server that starts by itself is not wanted: tests start their own
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
    fi
    apt-get -q update
    DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends "${missing[@]}"
fi > /dev/null
