# A worker with its scheduler, on what is mounted into /service:
#   /service/penstock.toml   the settings
#   /service/functions       the folders that it names in `tasks`
#   /service/data            the ledger, the embedded queue, results (a volume)
# docker build -t penstock . ; with further engines: --build-arg EXTRAS=tui,saq,postgres
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG EXTRAS=tui
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/penstock \
 && /opt/penstock/bin/pip install --no-cache-dir --no-compile ".[${EXTRAS}]" \
 && /opt/penstock/bin/pip uninstall -y pip

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin penstock \
 && install -d -o penstock -g penstock /service /service/data
COPY --from=build /opt/penstock /opt/penstock
ENV PATH=/opt/penstock/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
WORKDIR /service
VOLUME /service/data
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8700/ready', timeout=4)"]
ENTRYPOINT ["penstock"]
CMD ["--verbose", "worker", "--health-port=8700"]
