# The image of every node and of the driver: Ray, Python and cnnbatch as the tests ran with them. From a checkout:
#   docker build -t REGISTRY/cnnbatch:0.1.0-ray2.60.0-py311 . && docker push …, then pin the digest in cluster.yaml.
# FILL IN the digest of the base (`docker buildx imagetools inspect rayproject/ray:2.60.0-py311`): a tag can be moved.
ARG BASE=rayproject/ray:2.60.0-py311

FROM ${BASE} AS wheel
WORKDIR /src
COPY --chown=ray pyproject.toml README.md LICENSE ./
COPY --chown=ray cnnbatch cnnbatch
COPY --chown=ray jobs jobs
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /tmp/dist .

# Archives in a browser (docs/serve.md): docker build --target serve -t REGISTRY/cnnbatch-serve:0.1.0 .
FROM ${BASE} AS serve
COPY --from=wheel /tmp/dist /tmp/dist
COPY constraints.txt /tmp/constraints.txt
ENV NUMBA_CPU_NAME=x86-64-v3 \
    NUMBA_CPU_FEATURES= \
    PYTHONUNBUFFERED=1
RUN wheel=$(echo /tmp/dist/*.whl) \
    && pip install --no-cache-dir -c /tmp/constraints.txt "${wheel}[serve]" \
    && python -m cnnbatch.warm
USER 1000
WORKDIR /home/ray
EXPOSE 8765
ENTRYPOINT ["cnnbatch", "serve"]
CMD ["--help"]

FROM ${BASE}
COPY --from=wheel /tmp/dist /tmp/dist
COPY constraints.txt /tmp/constraints.txt
# boto3 is for the autoscaler of `ray up`; torch's wheel brings CUDA.
# Kernels are compiled here, once, for any x86-64 processor with AVX2: no worker waits for them.
ENV NUMBA_CPU_NAME=x86-64-v3 \
    NUMBA_CPU_FEATURES=
RUN pip install --no-cache-dir -c /tmp/constraints.txt boto3 /tmp/dist/*.whl \
    && python -c "import cnnbatch, jobs.nightly" \
    && python -m cnnbatch.warm
ENV RAY_AUTH_MODE=token \
    CNNBATCH_LOG=json \
    PYTHONUNBUFFERED=1
USER 1000
WORKDIR /home/ray
CMD ["python", "-m", "jobs.nightly", "--help"]
