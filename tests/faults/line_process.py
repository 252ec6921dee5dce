"""Processes that answer requests, one JSON object a line: other clients, other users, readers beside a write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


class LineProcess:
    """A process of a program; `python` and `environment` are those of this process where none are given."""

    def __init__(
        self, program: str | Path, *arguments: str, python: str | Path = sys.executable, environment: Any = None
    ) -> None:
        self._program = Path(program).name
        self._process = subprocess.Popen(
            [str(python), str(program), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def tell(self, **request: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._program} has ended with exit status {self._process.wait(10)}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(**request)
        return self.hear()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def answer_lines(answer: Any, *, first: Any = None, with_lines: bool = False) -> None:
    """Answer every line of standard input, whatever libraries print meanwhile; some answers end at the next line (`with_lines`)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    lines = os.fdopen(0, "r", buffering=1)

    def say(value: Any) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    if first is not None:
        say(first)
    while line := lines.readline():
        say(answer(json.loads(line), lines) if with_lines else answer(json.loads(line)))
