"""Trials of a local file system that refuses: a full disk, no inodes left, a permission that is lost, files that may not be large."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import storage_cases as cases
import storage_programs
from line_process import LineProcess
from points_reference import files, stored
from storage_trials import Trial, impatient, is_clear

import dask_zv as dzv

NOBODY = 65534
_ROOM = 8 << 20
_OVERWRITE = 12
"""Files more than there were that an overwrite needs at least while it runs: its journal and its mark."""
_ADVICE = {
    "disk full": "free space",
    "no inodes": "free space (or inodes)",
    "permission lost": "needs access to it",
    "file too large": "files may not be that large",
}


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of a few megabytes in memory; PermissionError where this user may not."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "dask-zv-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PermissionError(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def owned_folder() -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder of a user whom modes bind, and what a process takes to be that user: root is bound by none."""
    folder = Path(tempfile.mkdtemp(prefix="dask-zv-faults-"))
    try:
        root = os.getuid() == 0
        if root:
            os.chown(folder, NOBODY, NOBODY)
        yield folder, [str(NOBODY)] if root else []
    finally:
        for below in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
            below.chmod(0o755)
        shutil.rmtree(folder)


class LocalTrials:
    """Trials in one folder; permissions and limits are tried in a process of the folder's owner."""

    def __init__(self, folder: Path, process: LineProcess | None = None) -> None:
        self.folder, self.process, self.target = folder, process, folder / "s.zv"
        self._written: dict[tuple[str, str], tuple[int, dict[str, bytes], dict[str, list[Any]]]] = {}

    def _make(self, kind: str, before: str) -> None:
        """Make the store as it is before the write."""
        self._run("write" if before == "old" else "make", kind, seed=1)

    def _run(self, do: str, kind: str, **job: Any) -> dict[str, Any]:
        """Run a job in the process, or here where there is none."""
        job |= {"do": do, "target": str(self.target), "kind": kind, "make": do == "make" or job["seed"] == 1}
        if job["make"]:
            shutil.rmtree(self.target, ignore_errors=True)
        if self.process is not None:
            return self.process.ask(**job)
        with impatient():
            return storage_programs.answer(job)

    def _arguments(self, before: str) -> dict[str, Any]:
        return {"seed": 2, "resume": True, "mode": "overwrite" if before == "old" else "error"}

    def prepare(self, kind: str, before: str) -> tuple[int, dict[str, bytes], dict[str, list[Any]]]:
        """Write undisturbed; return how many files that makes, those of the result, and the contents that readers may find."""
        key = kind, before
        if key not in self._written:
            known = {}
            self._make(kind, before)
            if before == "old":
                known["old"] = cases.rows_of(dzv.open(str(self.target)))
            count = {"lose_permission": 1 << 30} if self.process is not None else {}
            answer = self._run("write", kind, **self._arguments(before), **count)
            if answer["outcome"] != "done":
                raise RuntimeError(f"an undisturbed write failed: {answer}")
            known["new"] = cases.rows_of(dzv.open(str(self.target)))
            self._written[key] = answer.get("files", 0), stored(self.target), known
        return self._written[key]

    def no_inodes(self, kind: str, before: str, where: float) -> Trial:
        return self.disk_full(kind, before, where, inodes=True)

    def disk_full(self, kind: str, before: str, where: float, *, inodes: bool = False) -> Trial:
        """Write while there is room for a part of what the write needs; then make room, and write again."""
        self.prepare(kind, before)
        self._make(kind, before)
        start = os.statvfs(self.folder)
        self.target.rename(self.folder / "empty.zv")
        shutil.copytree(self.folder / "empty.zv", self.target)
        with impatient():
            self._run("write", kind, **self._arguments(before))
        end = os.statvfs(self.folder)
        shutil.rmtree(self.target)
        (self.folder / "empty.zv").rename(self.target)
        name = "no inodes" if inodes else "disk full"
        if inodes:
            used = start.f_files - start.f_ffree
            need = max(1, start.f_ffree - end.f_ffree) if before == "empty" else _OVERWRITE
            left = 1 + int(where * (need - 1))
            trial = Trial(name, "local", kind, before, True, left, need, at=f"{left} inodes left")
            self._remount(f"nr_inodes={used + left}")
            trial = self._attempt(trial, lambda: self._remount("nr_inodes=100000"))
        else:
            need = (start.f_bavail - end.f_bavail if before == "empty" else _OVERWRITE) * start.f_bsize
            left = int(where * need)
            filler = self.folder / "filler"
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(1, os.statvfs(self.folder).f_bavail * start.f_bsize - left))
            trial = Trial(name, "local", kind, before, True, left, need, at=f"{left} bytes left")
            trial = self._attempt(trial, filler.unlink)
        return trial

    def _remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,size={_ROOM},{option}", str(self.folder)], check=True)

    def permission_lost(self, kind: str, before: str, where: float) -> Trial:
        """Write while no directory may be written to any more from some file on; then it may again."""
        files, _, _ = self.prepare(kind, before)
        self._make(kind, before)
        moment = min(1 + int(where * files), files)
        trial = Trial("permission lost", "local", kind, before, True, moment, files, at=f"file {moment} of {files}")
        return self._attempt(trial, lambda: None, lose_permission=moment)

    def file_too_large(self, kind: str, before: str, where: float) -> Trial:
        """Write while files may not be larger than some limit; then without it."""
        _, wanted, _ = self.prepare(kind, before)
        self._make(kind, before)
        sizes = sorted({len(data) for data in wanted.values()})
        limit = sizes[min(int(where * len(sizes)), len(sizes) - 2)]
        trial = Trial("file too large", "local", kind, before, True, limit, sizes[-1], at=f"files of at most {limit} bytes")
        return self._attempt(trial, lambda: None, largest_file=limit)

    def _attempt(self, trial: Trial, mend: Any, **fault: Any) -> Trial:
        """Write with a fault, mend it, write again, and judge what came of it."""
        _, wanted, known = self._written[trial.kind, trial.before]
        started = time.monotonic()
        answer = self._run("write", trial.kind, **self._arguments(trial.before), **fault)
        trial.seconds = round(time.monotonic() - started, 2)
        trial.outcome, trial.message = answer["outcome"].replace("done", "finished"), answer["message"]
        trial.seen = cases.look(str(self.target), None, known)
        left = [name for name in files(self.target) if name.endswith(".partial")]
        mend()
        complaints, trial.fired = trial.complaints, int(trial.outcome != "finished")
        if trial.outcome != "finished":
            error = dzv.StoreError(trial.message) if answer["is ours"] else OSError(trial.message)
            complaints += [f"the error {what}" for what in is_clear(error, self.target.as_uri())]
            if _ADVICE[trial.fault] not in trial.message:
                complaints.append("the error does not say what it is about")
            if left:
                complaints.append(f"files that are left behind: {left}")
            answer = self._run("write", trial.kind, **self._arguments(trial.before))
            trial.resumed = answer["outcome"].replace("done", "finished")
        trial.judge(stored(self.target), wanted, cases.look(str(self.target), None, known))
        return trial
