#!/usr/bin/env bash
# Run the container tests (`make test-swarm`); arguments go to pytest, SWARM_TESTS_MARK says which.  Needs docker and docker-compose, and pytest on PATH.
#
# Uses the Docker daemon that answers.  If none does (CI, bare machines) it starts one of its own, as root, in a network
# namespace of its own, and removes it with everything in it: no bridge, no firewall rule and no image stays behind.
# The image is built without a network: wheels come from this machine's pip, the base from a registry if one answers,
# else from Debian's mirror (kept in the user's cache, see the two offline_* scripts).
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${XDG_CACHE_HOME:-$HOME/.cache}/lepton
official=python:3.11-slim-bookworm
daemon=
run_dir=
data_dir=
linked=()
export SWARM_TESTS_PREFIX=lepton-test-$$-  # of every container, network and image that the tests make

say() { echo "test-swarm: $*" >&2; }

# Also what a pytest that was killed had no time to remove.
sweep() {
    docker ps -aq --filter "name=$SWARM_TESTS_PREFIX" | xargs -r docker rm -f
    docker network ls -q --filter "name=$SWARM_TESTS_PREFIX" | xargs -r docker network rm
    docker images -q "$SWARM_TESTS_PREFIX*" | xargs -r docker rmi -f
}

stop() {
    rm -f ${linked[@]+"${linked[@]}"}
    sweep >/dev/null 2>&1 || true
    [ -n "$daemon" ] || return 0
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    rm -rf "$run_dir" "$data_dir"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

start_daemon() {
    if [ "$(id -u)" != 0 ]; then
        say "no Docker daemon answers; start one (only root can have this script do it)"
        exit 1
    fi
    mkdir -p "$cache"
    data_dir=$(mktemp -d "$cache/engine.XXXXXX")  # on disk: /tmp may be memory, and an image with torch is large
    run_dir=$(mktemp -d /run/lepton-engine.XXXXXX)  # short: a socket's path has at most 107 characters
    export DOCKER_HOST=unix://$run_dir/docker.sock
    # The namespaces end with the daemon and take bridges, rules and mounts along; a daemon whose script was killed
    # is told to stop.
    setpriv --pdeathsig TERM unshare --net --mount sh -c 'ip link set lo up; exec dockerd "$@"' dockerd \
        --host "$DOCKER_HOST" --data-root "$data_dir" --exec-root "$run_dir/exec" --pidfile "$run_dir/docker.pid" \
        >"$run_dir/dockerd.log" 2>&1 </dev/null &
    daemon=$!
    for _ in $(seq 300); do
        docker info >/dev/null 2>&1 && return
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.2
    done
    say "the Docker daemon does not start; its last words:"
    tail -n 20 "$run_dir/dockerd.log" >&2
    exit 1
}

base_image() {
    if [ -z "$daemon" ] && { docker image inspect "$official" || timeout 120 docker pull "$official"; } >/dev/null 2>&1; then
        echo "$official"
    else
        scripts/offline_base_image.sh
    fi
}

# Into the build context, as hard links where the file system allows it.
link_wheels() {
    local wheel target
    for wheel in "$1"/*.whl; do
        target=docker/wheels/${wheel##*/}
        [ ! -e "$target" ] || continue
        linked+=("$target")
        ln "$wheel" "$target" 2>/dev/null || cp "$wheel" "$target"
    done
}

for tool in docker docker-compose; do
    command -v "$tool" >/dev/null || { say "$tool is missing (Debian: apt-get install docker.io docker-compose)"; exit 1; }
done
if docker info >/dev/null 2>&1; then
    say "using the Docker daemon that runs"
else
    say "starting a Docker daemon"
    start_daemon
fi
say "collecting wheels"
link_wheels "$(scripts/offline_wheels.sh "$(command -v python || command -v python3)")"
say "preparing the base image"
SWARM_BASE=$(base_image)
export SWARM_BASE
# The classic builder, which every engine has; compose asks the engine itself.
export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0
export SWARM_TESTS_REQUIRED=1
python -m pytest tests/swarm -m "${SWARM_TESTS_MARK:-swarm and not chaos}" "$@"
