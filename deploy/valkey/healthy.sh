#!/bin/sh
# Valkey answers, and has loaded what it had on disk.
REDISCLI_AUTH=$(cat /secrets/ledger/valkey_password) valkey-cli ping | grep -qx PONG
