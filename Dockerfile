# syntax=docker/dockerfile:1
# Both stages start from the same base, so the virtual environment's Python is there in each. Any Debian with Python 3.11
# or newer works: --build-arg BASE=…
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1
RUN python3 -m venv --without-pip /opt/metacore
WORKDIR /src
COPY requirements/uv.txt requirements/image.txt requirements/
# Networks with a certificate authority of their own hand it in as the secret `ca`; no trace of it stays in the image.
RUN --mount=type=secret,id=ca,target=/run/secrets/ca \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca PIP_CERT=/run/secrets/ca; fi; \
    python3 -m venv /tmp/uv && /tmp/uv/bin/pip install --quiet --require-hashes -r requirements/uv.txt && \
    VIRTUAL_ENV=/opt/metacore /tmp/uv/bin/uv pip sync --quiet --require-hashes --no-cache --compile-bytecode \
      requirements/image.txt
COPY pyproject.toml README.md ./
COPY kernel kernel
COPY operator operator
COPY migrations migrations
# Apart from what it depends on, so that a change of our own code is a layer of a few megabytes.
RUN /tmp/uv/bin/uv pip install --quiet --python /opt/metacore/bin/python --prefix /opt/code --no-deps \
      --no-build-isolation --no-cache --compile-bytecode .

FROM ${BASE}
# A number, so that Kubernetes can tell that it is not root.
RUN useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin metacore
COPY --from=build /opt/metacore /opt/metacore
COPY --from=build /opt/code /opt/metacore
ENV PATH=/opt/metacore/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 METACORE_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["metacore"]
CMD ["serve"]
