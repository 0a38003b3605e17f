"""Endpoints for machines: health and metrics."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from cnnbatch.serve.metrics import CONTENT_TYPE
from cnnbatch.serve.state import State


async def health(request: Request) -> Response:
    """``/healthz``: whether each index is there; ``/healthz?live``: whether the process answers."""
    state: State = request.app.state.cnnbatch
    ready = state.library.is_ready
    status = 200 if ready or "live" in request.query_params else 503
    return JSONResponse({"ready": ready}, status, {"Cache-Control": "no-store"})


async def metrics(request: Request) -> Response:
    """``/metrics`` in Prometheus' text format."""
    state: State = request.app.state.cnnbatch
    return Response(state.metrics.text(), headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
