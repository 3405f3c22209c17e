# What the study runs in, without the study: the working tree is mounted at /study, so that tables,
# figures and the paper appear where it lies.
#
#   docker build --build-arg USER_UID="$(id -u)" --build-arg USER_GID="$(id -g)" -t clonal-crystallization .
#   docker run --rm -v "$PWD":/study clonal-crystallization make reproduce
#
# Targets: cpu (the default) and cuda (--target cuda).

# The index of all architectures of python:3.11.16-slim-bookworm. Another base needs apt, python3.11 and its venv.
ARG BASE=docker.io/library/python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b


FROM ${BASE} AS system
# Debian removes a version from its mirrors when it mends it: a pinned one would stop building.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git make \
    && rm -rf /var/lib/apt/lists/*


# Quarto with its own pandoc, deno and typst. QUARTO=no leaves it out.
FROM system AS quarto
ARG QUARTO=yes
ARG QUARTO_RELEASES=https://github.com/quarto-dev/quarto-cli/releases/download
ARG QUARTO_VERSION=1.9.38
ARG QUARTO_SHA256_AMD64=ea8c897368791ad9f200010c087ea3111b2e556b12a960487dd4e216902aa102
ARG QUARTO_SHA256_ARM64=75fbc5c1121ffe65e564e9d24711db2ad8f617f9552f5dc7d8a06307d72dde38
WORKDIR /opt/quarto
# hadolint ignore=DL3008
RUN case "${QUARTO}" in no) exit 0 ;; yes) ;; *) \
        echo "error: QUARTO=${QUARTO} is neither yes nor no" >&2; exit 1 ;; esac \
    && arch="$(dpkg --print-architecture)" \
    && case "${arch}" in \
        amd64) sum="${QUARTO_SHA256_AMD64}" ;; \
        arm64) sum="${QUARTO_SHA256_ARM64}" ;; \
        *) echo "error: Quarto has no build for ${arch}; use --build-arg QUARTO=no" >&2; exit 1 ;; \
    esac \
    && apt-get update \
    && apt-get install --yes --no-install-recommends curl \
    && curl --fail --silent --show-error --location --retry 3 --output /tmp/quarto.tar.gz \
        "${QUARTO_RELEASES}/v${QUARTO_VERSION}/quarto-${QUARTO_VERSION}-linux-${arch}.tar.gz" \
    && echo "${sum}  /tmp/quarto.tar.gz" > /tmp/quarto.sha256 \
    && sha256sum --check --strict /tmp/quarto.sha256 \
    && tar --extract --gzip --file /tmp/quarto.tar.gz --strip-components 1 --no-same-owner


# All pinned packages but torch, which differs between the targets.
FROM system AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3.11 -m venv /opt/venv
# `make` compares this copy with the mounted tree's, and says so where the image is stale.
COPY requirements.txt /opt/venv/requirements.txt
RUN grep -v '^torch==' /opt/venv/requirements.txt > /tmp/without-torch.txt \
    && /opt/venv/bin/pip install --requirement /tmp/without-torch.txt
# The project itself: the mounted tree, as an editable install would have it. `dvc exp run` imports it from wherever it is.
RUN echo /study > /opt/venv/lib/python3.11/site-packages/study.pth


FROM packages AS packages-cpu
# Builds without CUDA. Left empty, pip takes the one that it is configured to find.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN grep '^torch==' /opt/venv/requirements.txt > /tmp/torch.txt \
    && /opt/venv/bin/pip install --no-deps ${TORCH_INDEX:+--index-url "${TORCH_INDEX}"} \
        --requirement /tmp/torch.txt \
    && /opt/venv/bin/pip check


FROM system AS runtime
ARG USER_UID=1000
ARG USER_GID=1000
COPY --from=quarto /opt/quarto /opt/quarto
# --non-unique: the host's group may have the number of one of Debian's (20 on macOS). /cache is open to
# whatever user the container is run as. The Makefile at /study is seen only where no tree is mounted.
RUN case "${USER_UID}" in ''|0*|*[!0-9]*) \
        echo "error: USER_UID='${USER_UID}' is not the number of an ordinary user (root is 0); pass \$(id -u), or leave it out" >&2; \
        exit 1 ;; esac \
    && case "${USER_GID}" in ''|*[!0-9]*) \
        echo "error: USER_GID='${USER_GID}' is not the number of a group; pass \$(id -g), or leave it out" >&2; exit 1 ;; esac \
    && groupadd --non-unique --gid "${USER_GID}" study \
    && useradd --non-unique --uid "${USER_UID}" --gid "${USER_GID}" --home-dir /cache --no-create-home \
        --no-log-init study \
    && mkdir /cache /study \
    && chmod 1777 /cache \
    && printf '.DEFAULT:\n\t@echo "error: no study at /study; mount the working tree there: --volume TREE:/study" >&2; exit 1\n' \
        > /study/Makefile \
    && git config --system --add safe.directory /study
ENV PATH=/opt/venv/bin:/opt/quarto/bin:${PATH} \
    VENV=/opt/venv \
    HOME=/cache \
    XDG_CACHE_HOME=/cache/xdg \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DVC_SITE_CACHE_DIR=/cache/dvc \
    DVC_NO_ANALYTICS=1 \
    MPLCONFIGDIR=/cache/matplotlib \
    NUMBA_CACHE_DIR=/cache/numba \
    LANG=C.UTF-8
COPY pyproject.toml tools/check_image.py /opt/check/
LABEL org.opencontainers.image.title="clonal-crystallization" \
    org.opencontainers.image.description="Python, the pinned packages and Quarto for the study, whose tree is mounted at /study" \
    org.opencontainers.image.licenses="MIT"
VOLUME /cache
USER ${USER_UID}:${USER_GID}
WORKDIR /study
# Whatever is run writes into the tree. One that this user may not write to is said before DVC stumbles over it.
ENTRYPOINT ["sh", "-c", "if [ -d .dvc ] && ! [ -w .dvc ]; then \
    echo \"error: $PWD belongs to user $(stat -c %u .dvc) and this is user $(id -u); run with --user $(stat -c %u:%g .dvc)\" >&2; \
    exit 1; fi; exec \"$@\"", "study"]
CMD ["make", "help"]


FROM runtime AS cpu
COPY --from=packages-cpu /opt/venv /opt/venv
RUN python /opt/check/check_image.py --torch cpu


FROM packages AS packages-cuda
# PyPI's build brings CUDA. `===` is met by no local build (2.13.0+cpu) that pip may be configured to find.
COPY requirements-cuda.txt /tmp/requirements-cuda.txt
RUN sed -n 's/^torch==/torch===/p' /opt/venv/requirements.txt > /tmp/torch.txt \
    && /opt/venv/bin/pip install --requirement /tmp/torch.txt --constraint /tmp/requirements-cuda.txt \
    && /opt/venv/bin/pip check


FROM runtime AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=packages-cuda /opt/venv /opt/venv
RUN python /opt/check/check_image.py --torch cuda


# The default is the last. Builders that make every stage up to it (buildah 1.28) save the CUDA packages by --target cpu.
FROM cpu
