# One lepton-peer.  `docker build -t lepton .`, then `docker run lepton --help`.
#
# Build arguments:
#   BASE         image with Python 3.11 and its venv module.
#   WHEELS       folder of the build context with wheels that are used before the package index (docker/wheels, empty
#                in the repository).  If it holds everything, the build needs no network: scripts/offline_wheels.sh fills
#                it and scripts/offline_base_image.sh makes a base where no image can be pulled.
#   TORCH_INDEX  package index to take torch from; default: the normal one, whose wheel for Linux brings CUDA.  PyTorch's
#                installation page names an index of CPU wheels, which make the image some gigabytes smaller.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG WHEELS=docker/wheels
ARG TORCH_INDEX=
ENV PATH=/opt/lepton/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/lepton
COPY ${WHEELS} /wheels
COPY docker/pip-install /usr/local/bin/pip-install
WORKDIR /src
# Dependencies before the source: a change of the source then rebuilds in seconds.
COPY constraints.txt ./
RUN pip-install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c constraints.txt torch
COPY pyproject.toml scripts/requirements.py ./
RUN python3 requirements.py demo > requirements.txt && pip-install -c constraints.txt -r requirements.txt
COPY README.md ./
COPY lepton_p2p lepton_p2p
RUN pip-install --no-deps .

FROM ${BASE}
RUN useradd --system --uid 7700 --user-group --home-dir /var/lib/lepton --create-home lepton
COPY --from=build /opt/lepton /opt/lepton
COPY --chown=lepton peers /peers
ENV PATH=/opt/lepton/bin:$PATH PYTHONUNBUFFERED=1
USER lepton
WORKDIR /var/lib/lepton
# The control plane; links between peers take free ports, which need no publishing on a common network.
EXPOSE 7700
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["lepton-peer", "health", "127.0.0.1:7700"]
ENTRYPOINT ["lepton-peer"]
