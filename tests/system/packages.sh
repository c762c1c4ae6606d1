#!/usr/bin/env bash
# The Debian packages of the system tests: installed if this is root on Debian, named otherwise.
# Containers are started by the command in TEST_COMPOSE, "docker compose" unless set; without Docker, podman is the engine.
set -euo pipefail
declare -A commands=([prometheus]=promtool [chromium]=chromium [podman]=podman)
missing=()
for package in "${!commands[@]}"; do
  [[ $package == podman ]] && command -v docker >/dev/null && continue
  command -v "${commands[$package]}" >/dev/null || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
  echo "The system tests need: ${missing[*]}. Install them, on Debian with: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
# its package starts a service, which nothing here needs: tests start one of their own
if [[ " ${missing[*]} " == *" prometheus "* && -d /run/systemd/system ]]; then
  systemctl disable --quiet --now prometheus
fi
