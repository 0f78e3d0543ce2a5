#!/bin/sh
# The real servers that tests use, from Debian's packages: each line is a program and the package that has it.
#   install-system.sh            installs what is missing (root or sudo); starts no service, now or at boot
#   install-system.sh --missing  only says what is missing
set -eu
servers="
prometheus prometheus
redis-server redis-server
mosquitto mosquitto
nats-server nats-server
chromium chromium
espeak-ng espeak-ng
"
PATH=$PATH:/usr/sbin

missing=$(echo "$servers" | while read -r program package; do
    [ -z "$program" ] || command -v "$program" >/dev/null || printf '%s ' "$package"
done)
[ -n "$missing" ] || exit 0
if [ "${1-}" = --missing ]; then
    echo "not installed: ${missing}(tests that use it are skipped; make system installs it)"
    exit 0
fi

if [ "$(id -u)" = 0 ]; then as_root=; else as_root=sudo; fi
export DEBIAN_FRONTEND=noninteractive

# Debian starts a server as it installs it, unless this file says no (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    trap '$as_root rm -f $policy' EXIT
    $as_root chmod +x $policy
fi

$as_root apt-get -q update
$as_root apt-get -q install --yes --no-install-recommends $missing
for package in $missing; do
    $as_root systemctl disable "$package" 2>/dev/null || true # no systemd, or no such service: nothing to switch off
done
