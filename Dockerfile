# Two images from one file: `--target api` (HTTP, migrations, sweeper) and `--target worker` (trains).
FROM python:3.11.14-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PPO_DATA_DIR=/data PPO_LOG_FORMAT=json
RUN useradd --uid 10001 --create-home ppo && install --directory --owner=ppo --group=ppo /data
WORKDIR /home/ppo

FROM base AS wheel
COPY . /src
RUN pip wheel --no-deps --wheel-dir /wheels /src

FROM base AS api
COPY constraints.txt /tmp/
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /tmp/constraints.txt "$(echo /wheels/*.whl)[server]"
USER ppo
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["python", "-m", "ppo_server", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM base AS worker
COPY constraints.txt /tmp/
RUN --mount=from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /tmp/constraints.txt "$(echo /wheels/*.whl)[server,worker]"
USER ppo
# Ask Celery's main process itself: one that is wedged still runs.
HEALTHCHECK --interval=60s --timeout=20s --start-period=60s \
    CMD python -m celery --app worker.tasks inspect ping --timeout 10 --destination "cpu@$HOSTNAME"
STOPSIGNAL SIGTERM
CMD ["python", "-m", "ppo_server", "worker", "--queue", "cpu", "--slots", "1"]
