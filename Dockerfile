# docker build -t covid-xray .                          for a CPU
# docker build -t covid-xray --build-arg DEVICE=cu130 .  for NVIDIA GPUs (CUDA 13.0); run it with --gpus all
FROM python:3.12-slim

ARG DEVICE=cpu
WORKDIR /opt/covid-xray
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY covid_xray covid_xray
COPY conf conf
RUN pip install --no-cache-dir uv \
    && uv pip install --system --no-cache --torch-backend "${DEVICE}" --constraint constraints.txt \
    '.[dicom,export,sweep,launch,timm]' \
    && useradd --uid 1000 --create-home user
USER 1000
WORKDIR /home/user/work

# Images, runs and downloaded weights stay in the mounted folder:
# docker run --rm -it --shm-size=2g -v "$PWD:/home/user/work" covid-xray train experiment=tiny
ENV TORCH_HOME=/home/user/work/data/torch
ENTRYPOINT ["covid-xray"]
CMD ["--help"]
