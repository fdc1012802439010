#!/usr/bin/env bash
# Install the servers that the tests need and that no wheel carries for this Python: redis-server and rabbitmq-server,
# by apt, as root on Debian and its kin. What is there already is left alone; system services are stopped and disabled,
# as the tests run private servers. Elsewhere it says what is missing and changes nothing.
# The browser comes only when asked for (`services.sh chromium`) or where nothing may be skipped: it takes 113 MB.
set -euo pipefail

missing=()
command -v redis-server >/dev/null || missing+=(redis-server)
command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ] || missing+=(rabbitmq-server)
if [ "${1:-}" = chromium ] || [ "${PENSTOCK_REQUIRE_SERVICES:-0}" != 0 ]; then
  command -v chromium >/dev/null || missing+=(chromium)
fi
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "services: not installed here: ${missing[*]} (as root on Debian: tools/services.sh)" >&2
  exit 0
fi

# Debian starts a service as it installs it, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
echo "services: installing ${missing[*]}"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
if [ -d /run/systemd/system ]; then
  for service in "${missing[@]}"; do
    systemctl disable --now "$service" >/dev/null 2>&1 || true
  done
fi
