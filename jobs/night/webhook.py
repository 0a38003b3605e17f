"""Posts the report of a night to a URL that only the environment knows."""

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

from cnnbatch.errors import UsageError
from cnnbatch.text import visible
from jobs.night.report import NightReport

TRIES: Final = 3
PAUSE_SECONDS: Final = 2.0
TIMEOUT_SECONDS: Final = 10.0

logger = logging.getLogger(__name__)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would be followed by a GET, without the report."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(_NoRedirect)


def webhook_url(variable: str) -> str:
    """Raises UsageError where the environment has no such variable, or no http(s) URL in it; the message has no part of it."""
    url = os.environ.get(variable, "")
    if not url:
        raise UsageError(f"the environment variable {variable}, named by the setting webhook_variable, is not set")
    if urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).hostname:
        raise UsageError(f"the environment variable {variable} does not hold an http:// or https:// URL")
    return url


def post(url: str, report: NightReport) -> str | None:
    """Posts ``{"text": a sentence, "report": all of it}``; returns why it could not be delivered, without the URL.

    ``text`` is what chat services show. A webhook that does not answer is no reason to fail.
    """
    text = visible(f"cnnbatch night {report.run_id}: {report.summary()}")
    body = json.dumps({"text": text, "report": json.loads(report.to_json())})
    fault = ""
    for number in range(TRIES):
        if number:
            time.sleep(PAUSE_SECONDS)
        fault = _post_once(url, body.encode())
        if not fault:
            return None
        logger.warning("the webhook could not be reached: %s", fault)
    return f"the report was not delivered to the webhook: {fault}"


def _post_once(url: str, body: bytes) -> str:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as response:
            response.read(1 << 16)
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}{', which is not followed' if 300 <= error.code < 400 else ''}"
    except urllib.error.URLError as error:
        return str(error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return type(error).__name__
    return ""
