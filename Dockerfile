# The same commands as on any machine, in an image: docker build -t probeline:0.1.0 .
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends make git && rm -rf /var/lib/apt/lists/*
WORKDIR /probeline
COPY . .
RUN make env
ENV PATH="/probeline/.venv/bin:$PATH"
CMD ["make", "probe"]
