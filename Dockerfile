# Two images from one file; docs/deployment.md has the commands.
#   docker build --target train --tag birdsong-train .
#   docker build --target serve --tag birdsong .
#   docker build --target serve --tag birdsong:gpu --build-arg LOCK=requirements-cuda.lock .     # needs the NVIDIA container toolkit
FROM python:3.12-slim-bookworm AS train
ARG LOCK=requirements.lock
ENV BIRDSONG_VENV=/opt/venv BIRDSONG_LOCK=$LOCK PATH=/opt/venv/bin:$PATH BIRDSONG_PREDICTIONS=/data/predict MPLCONFIGDIR=/tmp/matplotlib PYTHONUNBUFFERED=1
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ffmpeg libsox-fmt-all sox \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /birdsong
COPY requirements.lock requirements-cuda.lock environment.sh ./
RUN bash environment.sh
COPY . .
RUN useradd --create-home --uid 1000 birdsong && install --directory --owner birdsong /data
USER 1000
VOLUME /data
ENTRYPOINT ["./doall.sh", "--set", "data.folder=/data/corpora", "--set", "train.folder=/data/runs"]

FROM train AS serve
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ.get(\"PORT\", 8000)}/api/health', timeout=4)"]
ENTRYPOINT ["python", "predict/serveModel.py", "--host", "0.0.0.0", "--run", "/run/model"]
