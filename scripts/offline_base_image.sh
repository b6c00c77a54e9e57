#!/usr/bin/env bash
# Make a base image for the Dockerfile where no image can be pulled: Debian bookworm with Python 3.11, from the mirror
# that this machine's apt uses.  Needs root, debootstrap and a running Docker daemon; prints the image's name.
#   scripts/offline_base_image.sh [NAME]   default: lepton-base:bookworm; then docker build --build-arg BASE=NAME
# The file system is kept in the user's cache (about 250 MB), so that a second daemon gets it in seconds.
set -euo pipefail

name=${1:-lepton-base:bookworm}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/lepton
rootfs=$cache/base-bookworm-$(uname -m).tar

# The mirror and not a fixed host: it is the one that is known to answer.  Empty (no Debian bookworm here): debootstrap's
# own default.
mirror() {
    apt-get indextargets --format '$(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "bookworm" && $2 == "main" { print $3; exit }'
}

if ! docker image inspect "$name" >/dev/null 2>&1; then
    if [ ! -f "$rootfs" ]; then
        mkdir -p "$cache"
        part=$(mktemp -d "$cache/base-part.XXXXXX")
        trap 'rm -rf "$part" "$rootfs.part"' EXIT
        debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
            bookworm "$part" "$(mirror)" > "$part.log" 2>&1 || { tail -n 20 "$part.log" >&2; rm -f "$part.log"; exit 1; }
        rm -rf "$part.log" "$part"/var/cache/apt/* "$part"/var/lib/apt/lists/* "$part"/var/log/*
        tar -C "$part" -cf "$rootfs.part" .
        mv "$rootfs.part" "$rootfs"
    fi
    docker import --change 'CMD ["bash"]' "$rootfs" "$name" >/dev/null
fi
echo "$name"
