#!/usr/bin/env bash
# Collect every wheel that the image needs, so that its build needs no network, and print the folder's path.
#   scripts/offline_wheels.sh [PYTHON]     PYTHON: an interpreter with a recent pip (default: python3)
# Wherever this machine's pip finds torch, the image's torch comes from.  The folder is kept in the user's cache and
# made again only when the requirements change.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${1:-python3}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lepton
requirements=$("$python" scripts/requirements.py --build demo)
# A resolution is valid for its requirements and for the interpreter in the image (Dockerfile's BASE).
target=3.11
key=$(printf '%s\n' "$requirements" "$target" "$(uname -m)" | cat - constraints.txt | sha256sum | cut -c1-12)
folder=$cache/wheels-$key

if [ ! -d "$folder" ]; then
    mkdir -p "$cache"
    part=$(mktemp -d "$cache/wheels-part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    options=(-qq --only-binary=:all: --python-version "$target" --dest "$part" -c constraints.txt)
    # torch first and alone: then the wheel that was found is what the rest is resolved with.
    "$python" -m pip download "${options[@]}" torch >&2
    printf '%s\n' "$requirements" > "$part/requirements.txt"
    "$python" -m pip download "${options[@]}" --find-links "$part" -r "$part/requirements.txt" >&2
    rm "$part/requirements.txt"
    chmod -R a+rX "$part"
    mv -T "$part" "$folder"
    find "$cache" -maxdepth 1 -type d -name 'wheels-*' ! -path "$folder" -exec rm -rf {} +
fi
echo "$folder"
