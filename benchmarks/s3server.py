"""An S3-compatible object server for benchmarks: in memory, on loopback, with a latency of your choice.

Real object storage answers each request late and many at once. This server does the same on a laptop: every request
waits ``latency_ms`` before its answer, waits overlap, and the requests, the bytes and the most requests that ever were
in flight are counted. It keeps nothing on disk, checks no signatures and listens on 127.0.0.1 only.

It speaks what obstore, boto and s3fs use for data: PUT (conditional too), GET (ranges), HEAD, DELETE, copies, multipart
uploads, ListObjectsV2 and bulk deletes, path-style. Every bucket exists. Only the standard library is needed; uvloop is
used where it is installed.

From a shell (the first line on stdout is the port)::

    python benchmarks/s3server.py --port 0 --latency-ms 20

From Python::

    with serve(latency_ms=20) as server:
        store = S3Store("bucket", endpoint=server.endpoint, **server.obstore_options)
        ...
        print(server.stats()["max_in_flight"])

Control, without latency: ``/__stats``, ``/__reset`` (counters), ``/__clear`` (objects), ``/__latency?ms=20``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s3http import Connection
from s3verbs import ObjectServer

HOST = "127.0.0.1"


async def run(port: int, latency_ms: float, *, until_stdin_closes: bool) -> None:
    """Listen on loopback, print the port, and serve until the process (or its stdin) ends."""
    loop = asyncio.get_running_loop()
    server = ObjectServer(latency_ms / 1000)
    listener = await loop.create_server(lambda: Connection(server, loop), HOST, port, backlog=4096)
    print(listener.sockets[0].getsockname()[1], flush=True)
    stop = asyncio.Event()
    if until_stdin_closes:

        def watch() -> None:
            sys.stdin.buffer.read()
            loop.call_soon_threadsafe(stop.set)

        threading.Thread(target=watch, daemon=True).start()
    await stop.wait()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="An S3-compatible object server in memory, for benchmarks.")
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 (default) takes a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="wait before each answer; waits overlap")
    parser.add_argument("--until-stdin-closes", action="store_true", help="end when stdin does, so with the parent")
    options = parser.parse_args(arguments)
    if options.latency_ms < 0:
        parser.error("--latency-ms must not be negative")
    with contextlib.suppress(ImportError):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(options.port, options.latency_ms, until_stdin_closes=options.until_stdin_closes))


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, seen from the process that started it."""

    port: int
    pid: int

    @property
    def endpoint(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def obstore_options(self) -> dict[str, Any]:
        """What ``obstore.store.S3Store`` takes besides bucket and endpoint."""
        return {
            "access_key_id": "benchmark",
            "secret_access_key": "benchmark",
            "region": "us-east-1",
            "client_options": {"allow_http": True},
        }

    @property
    def storage_options(self) -> dict[str, Any]:
        """The same in fsspec's dialect, with the endpoint: what s3fs and dask-zv take."""
        return {"key": "benchmark", "secret": "benchmark", "endpoint_url": self.endpoint}

    def stats(self) -> dict[str, Any]:
        """Return what happened since the reset, and what is stored.

        Requests (all, and ``by_operation``), bytes, ``max_in_flight``, and ``busy_seconds``, in which one was in flight at
        least: divided by the latency, how often a client had to wait for one request before it sent the next.
        """
        return self._control("stats")

    def reset(self) -> None:
        """Set the counters to zero."""
        self._control("reset")

    def clear(self) -> None:
        """Forget all objects."""
        self._control("clear")

    def set_latency(self, milliseconds: float) -> None:
        """Make every later request wait this long."""
        self._control(f"latency?ms={milliseconds}")

    def _control(self, what: str) -> dict[str, Any]:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever the proxy settings say
        with opener.open(f"{self.endpoint}/__{what}", timeout=30) as reply:
            result: dict[str, Any] = json.load(reply)
        return result


@contextlib.contextmanager
def serve(latency_ms: float = 0.0) -> Iterator[Server]:
    """Run a server in a process of its own for the length of a ``with`` block."""
    command = [sys.executable, str(Path(__file__).resolve()), "--latency-ms", str(latency_ms), "--until-stdin-closes"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.strip().isdigit():
                raise RuntimeError(f"the server did not start (exit status {process.wait(timeout=10)})")
            yield Server(int(line), process.pid)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


if __name__ == "__main__":
    main()
