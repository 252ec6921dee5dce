"""The ZV packages at the other end of a pipe, and stores that they and we made once a session."""

from __future__ import annotations

import atexit
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import peer_env

REQUIREMENTS = {"0.2": peer_env.PEER_02, "0.9": peer_env.PEER_09}
LINKS_ALWAYS = "Point cloud but links array exists"
STALE = "0/vertex_group_offsets/ missing"
SPURIOUS = {"0.2": {STALE, LINKS_ALWAYS}, "0.9": {LINKS_ALWAYS}}
"""What a validator says of every point cloud, its own included: it looks for links in a way that always finds them, and that of
0.2.0 for an array of an older format."""


def recipes_in(module, name="RECIPES"):
    """Return the names of the stores that a module of recipes, which only a package's environment can import, writes."""
    text = Path(__file__).with_name(f"{module}.py").read_text()
    names = re.findall(r'^    "(\w+)": ', text.partition(f"\n{name} = {{")[2].partition("\n}")[0], re.M)
    assert len(names) > 5
    return names


class Peer:
    """A package in a process of an environment of its own, made once and kept in the checkout; a test that can't have it fails."""

    def __init__(self, generation):
        self.requirements = REQUIREMENTS[generation]
        python = peer_env.peer_python(*self.requirements)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("peer.py"), self.requirements[0].partition("==")[2]],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )  # fmt: skip
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


start_peer = cache(Peer)
"""Return the one peer of a generation in this session."""


class Exchange:
    """Stores of ours and of a package, each made once a session, and what the package says of them, asked once."""

    def __init__(self, peer, write_ours):
        self._folder = tempfile.TemporaryDirectory()
        atexit.register(self._folder.cleanup)
        self.root, self.peer, self._write_ours = Path(self._folder.name), peer, write_ours
        self.theirs, self.validate = cache(self._theirs), cache(lambda path: peer.call("validate", path=path))

    def ours(self, name):
        path = self.root / "ours" / f"{name}.zv"
        if not path.exists():
            self._write_ours(name, path)
        return path

    def _theirs(self, name):
        """Return the path of a store of theirs, what went in, and what the package said."""
        path = self.root / "theirs" / f"{name}.zarrvectors"
        path.parent.mkdir(exist_ok=True)
        return path, *self.peer.arrays("write", recipe=name, path=path)

    def copy(self, name, target):
        """Copy a store of theirs; return what went into it."""
        path, truth, _ = self.theirs(name)
        shutil.copytree(path, target)
        return truth
