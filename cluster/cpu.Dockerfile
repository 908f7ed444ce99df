# The image of a driver, and of anything without a GPU: the set of cpu.txt, hashes checked, and raystill.
# Not built so far: cluster/README.md says how, and what was checked instead.
# Pin the base too: docker build --build-arg BASE=docker.io/library/python:3.11-slim-bookworm@sha256:…
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
COPY cluster/cpu.txt /tmp/cpu.txt
# setuptools first: the few sources in the set are built by it, not by whatever an index offers on that day.
RUN python -m venv /opt/raystill \
    && grep '^setuptools==' /tmp/cpu.txt > /tmp/first.txt \
    && /opt/raystill/bin/pip install --no-cache-dir --no-deps --require-hashes -r /tmp/first.txt \
    && /opt/raystill/bin/pip install --no-cache-dir --no-deps --require-hashes --no-build-isolation --extra-index-url https://download.pytorch.org/whl/cpu -r /tmp/cpu.txt
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN /opt/raystill/bin/pip install --no-cache-dir --no-deps --no-index --no-build-isolation /src

FROM ${BASE}
RUN groupadd --gid 1000 raystill \
    && useradd --uid 1000 --gid 1000 --create-home raystill
COPY --from=build /opt/raystill /opt/raystill
ENV PATH=/opt/raystill/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/raystill
