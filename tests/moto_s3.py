"""Moto's S3 alone, on a port of loopback: a program that `conftest.py` starts.

`moto.server` finds out for every request which of AWS' services it is for, closes every connection after one answer and
logs each: that was most of what the tests of S3 cost.
"""

from __future__ import annotations

import sys
from typing import Any

import moto.server
from werkzeug.serving import WSGIRequestHandler, run_simple

Handler: Any = getattr(moto.server, "MotoRequestHandler", WSGIRequestHandler)


class QuietHandler(Handler):
    """Keeps connections; logs nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None: ...


if __name__ == "__main__":
    run_simple("127.0.0.1", int(sys.argv[1]), moto.server.create_backend_app("s3"), threaded=True, request_handler=QuietHandler)
