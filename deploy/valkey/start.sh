#!/bin/sh
# Start Valkey with its password, which is neither on a command line nor in the environment.
set -eu
umask 077
{ cat /etc/valkey.conf; printf 'requirepass %s\n' "$(cat /secrets/ledger/valkey_password)"; } >/tmp/valkey.conf
exec valkey-server /tmp/valkey.conf
