#!/usr/bin/env bash
# Compile requirements/*.in to locks of versions and hashes, in the order in which they
# build on each other. A lock names no index, so that it installs from any mirror: the
# hashes are what is trusted. Arguments go to the compiler (for example --upgrade).
# Usage: tools/lock.sh UV [--upgrade | --upgrade-package NAME]
set -eu
cd "$(dirname "$0")/../requirements"
uv=$1
shift
for name in lock run dev docs bench fuzz; do
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
        "$@" --output-file "$name.lock" "$name.in"
    if grep -n '://' "$name.lock"; then
        echo "$name.lock names an address: take it out of $name.in or of the tool's settings" >&2
        exit 1
    fi
done
