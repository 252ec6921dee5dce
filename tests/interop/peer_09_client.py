"""The ZV 0.9 package at the other end of a pipe."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import peer_env

REQUIREMENTS = getattr(peer_env, "PEER_09", ("zarr-vectors==0.9.2", "obstore"))
SCRIPT = Path(__file__).with_name("peer_09.py")
SPURIOUS = {"Point cloud but links array exists"}
"""What its validator says of every point cloud, its own included: it looks for links in a way that always finds them."""


class Peer:
    """The package in a process of an environment of its own: one for all tests of a session."""

    def __init__(self):
        python = peer_env.peer_python(*REQUIREMENTS)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [python, SCRIPT, REQUIREMENTS[0].partition("==")[2]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment,
        )
        atexit.register(self.close)
        self._folder = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()

    def close(self):
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._folder.cleanup()

    def call(self, do, **arguments):
        """Return what the package says; its exception fails the test."""
        self._process.stdin.write(json.dumps({"do": do, **arguments}, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            pytest.fail(f"the peer ended:\n{self._log.read()[-4000:]}", pytrace=False)
        answer = json.loads(line)
        if "failed" in answer:
            pytest.fail(f"the peer could not {do} {arguments}:\n{answer['failed'][-3000:]}", pytrace=False)
        return answer["told"]

    def arrays(self, do, **arguments):
        """The same, and the arrays that came of it."""
        out = Path(self._folder.name) / f"{next(self._numbers)}.npz"
        told = self.call(do, out=str(out), **arguments)
        with np.load(out) as found:
            arrays = dict(found)
        out.unlink()
        return arrays, told


@cache
def start_peer():
    """Return the one peer of this session; a test that can't have it fails."""
    return Peer()
