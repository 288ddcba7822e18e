# docker build -t relay . && docker run --read-only -v relay:/data -p 127.0.0.1:1025:1025 relay
# It runs as uid 10001 (any other will do, if it owns /data), writes to /data only, and needs no capability.

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY relay relay
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel . \
 && python -m venv --without-pip /opt/relay \
 && pip --python /opt/relay/bin/python install --no-cache-dir "$(echo /wheel/*.whl)[postgres]"

FROM python:3.11-slim
ARG VERSION=dev
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="An asyncio SMTP relay proxy that signs what leaves and says why at every verdict" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
RUN groupadd --gid 10001 relay \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin relay \
 && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/relay /opt/relay
COPY docker/config.toml /etc/relay/config.toml
ENV PATH=/opt/relay/bin:$PATH \
    RELAY_CONFIG=/etc/relay/config.toml \
    RELAY_DATA=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 2525 2526 1025 8025
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["relay", "readyz", "--timeout", "4s"]
ENTRYPOINT ["relay"]
CMD ["serve"]
