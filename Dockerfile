# The image of one model. Everything but the base is pinned by requirements.lock.
#
#   docker build -t nimlite:llama3-8b .
#   docker build -t nimlite:smollm2-135m --build-arg MODEL=smollm2-135m --build-arg PREFETCH=1 .
#   docker build -t nimlite:cpu --build-arg BASE_IMAGE=python:3.12-slim --build-arg TOOLCHAIN= .
#
# BASE_IMAGE  Debian or Ubuntu. torch's wheels bring CUDA's libraries with them.
# MODEL       what is served unless NIM_MODEL_PATH says otherwise: a name in profiles/ or hf://org/name
# PREFETCH    1: the weights are part of the image, and no start needs a network
# TOOLCHAIN   packages that Triton compiles with at run time; none without a GPU
# PIP_ARGS    added to every `pip install`: for a CPU image, the index that has torch for CPUs
ARG BASE_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04

FROM ${BASE_IMAGE} AS base
ARG DEBIAN_FRONTEND=noninteractive
# tini: as process 1 it reaps children and passes signals on.
RUN set -eu; \
    packages="tini ca-certificates"; \
    python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3 python3-venv"; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends $packages >/dev/null; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin; \
    python3 -m venv /opt/nim/venv
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore

FROM base AS torch
ARG PIP_ARGS=
COPY requirements.lock /tmp/
RUN /opt/nim/venv/bin/pip install -q $PIP_ARGS -c /tmp/requirements.lock torch numpy

FROM torch AS dependencies
ARG PIP_ARGS=
ARG DEBIAN_FRONTEND=noninteractive
COPY pyproject.toml /tmp/
# transformers is left out: of nimlite only the benchmarks import it. What pip installs here loses its symbols.
RUN set -eu; \
    /opt/nim/venv/bin/python -c 'import tomllib; project = tomllib.load(open("/tmp/pyproject.toml", "rb"))["project"]; \
print(*(name for name in project["dependencies"] if not name.startswith("transformers")), sep="\n")' >/tmp/needed; \
    /opt/nim/venv/bin/pip install -q $PIP_ARGS -c /tmp/requirements.lock -r /tmp/needed; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends binutils >/dev/null; \
    find /opt/nim/venv/lib -name '*.so' -newer /tmp/needed -exec strip --strip-unneeded {} +; \
    apt-get purge -y -qq --auto-remove binutils >/dev/null; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin

FROM dependencies AS application
ARG PIP_ARGS=
COPY pyproject.toml README.md LICENSE /tmp/src/
COPY nimlite /tmp/src/nimlite
COPY profiles /tmp/src/profiles
RUN /opt/nim/venv/bin/pip install -q $PIP_ARGS --no-deps /tmp/src && rm -r /tmp/*

# The C++ kernels for every level of processor: the image has no compiler to build them for its own.
FROM application AS kernels
ARG DEBIAN_FRONTEND=noninteractive
RUN set -eu; \
    apt-get update -qq; \
    apt-get install -y -qq --no-install-recommends g++ >/dev/null; \
    /opt/nim/venv/bin/python -c \
      'from nimlite.kernels.cpu import prebuilt; prebuilt.build_all(prebuilt.DIRECTORY)'

# The bill of materials.
FROM application AS sbom
ARG PIP_ARGS=
RUN set -eu; \
    python3 -m venv /opt/cyclonedx; \
    /opt/cyclonedx/bin/pip install -q $PIP_ARGS cyclonedx-bom==7.5.0; \
    /opt/cyclonedx/bin/cyclonedx-py environment -o /sbom.cdx.json /opt/nim/venv/bin/python

FROM application AS model
ARG MODEL=llama3-8b
ARG PREFETCH=0
COPY --from=kernels /opt/nim/venv/share/nimlite/kernels /opt/nim/venv/share/nimlite/kernels
RUN set -eu; \
    mkdir /opt/nim/models; \
    if [ "$PREFETCH" = 1 ]; then \
      export NIM_CACHE_PATH=/tmp/cache NIM_MODEL_PATH="$MODEL"; \
      /opt/nim/venv/bin/nimlite create-model-store -m /opt/nim/models/default; \
      rm -r /tmp/cache; \
    fi

FROM application
ARG MODEL=llama3-8b
ARG DEBIAN_FRONTEND=noninteractive
ARG TOOLCHAIN="gcc libc6-dev python3-dev"
ARG VERSION=0.1.0
ARG REVISION=
LABEL org.opencontainers.image.title="nimlite" \
      org.opencontainers.image.description="A self-optimizing LLM server: $MODEL" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.licenses="Apache-2.0"
# Any user may run the image: the cache is everybody's, as /tmp is.
RUN set -eu; \
    if [ -n "$TOOLCHAIN" ]; then \
      apt-get update -qq; \
      apt-get install -y -qq --no-install-recommends $TOOLCHAIN >/dev/null; \
      rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin; \
    fi; \
    mkdir -m 1777 /opt/nim/.cache
COPY container/bin /opt/nim/bin
COPY --from=kernels /opt/nim/venv/share/nimlite/kernels /opt/nim/venv/share/nimlite/kernels
COPY --from=sbom /sbom.cdx.json /opt/nim/sbom.cdx.json
COPY --from=model /opt/nim/models /opt/nim/models
# A user without an entry in /etc/passwd has neither a home nor a name.
ENV PATH=/opt/nim/bin:/opt/nim/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/opt/nim/.cache \
    USER=nim \
    NIM_CACHE_PATH=/opt/nim/.cache \
    IMAGE_MODEL=$MODEL
USER 1000:1000
WORKDIR /opt/nim
VOLUME /opt/nim/.cache
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30m --retries=3 CMD ["healthcheck"]
ENTRYPOINT ["tini", "--", "entrypoint"]
CMD ["nim-serve"]
