"""Settings: where they come from, what they can't be, and that changes end."""

from __future__ import annotations

import subprocess
import sys

import dask
import pytest

import dask_zv as dzv
from dask_zv.config import DEFAULTS, override, settings


def test_they_come_from_dask_whatever_the_hyphens():
    assert settings() is DEFAULTS
    with dask.config.set({"dask_zv.read-block-bytes": "8 MiB", "dask_zv.write_block_bytes": [1, "2 kB"]}):
        assert settings().read_block_bytes == 8 << 20
        assert settings().write_block_bytes == (1, 2000)
        with override(read_block_bytes=5, keep_input=0):
            assert (settings().read_block_bytes, settings().keep_input) == (5, 0)
            assert settings().write_block_bytes == (1, 2000)
        assert settings().read_block_bytes == 8 << 20
    assert settings() is DEFAULTS


def test_they_come_from_the_environment():
    code = "from dask_zv.config import settings; s = settings(); print(s.max_requests, s.request_timeout, s.few_chunks)"
    given = {"DASK_ZV_MAX_REQUESTS": "7", "DASK_ZV_TIMEOUT": "2.5", "DASK_DASK_ZV__FEW_CHUNKS": "11"}
    prefix = f"import os; os.environ.update({given!r}); "
    run = subprocess.run([sys.executable, "-c", prefix + code], capture_output=True, text=True, timeout=120, check=True)
    assert run.stdout.split() == ["7", "2.5", "11"]


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("nonsense", 1, r"no setting dask_zv\.nonsense.*read-block-bytes"),
        ("few_chunks", 0, "few-chunks is a positive number of chunks, not 0"),
        ("few_chunks", True, "positive number"),
        ("few_chunks", 2.5, "positive number"),
        ("request_timeout", 0, "seconds above 0"),
        ("request_timeout", "soon", "seconds above 0, not 'soon'"),
        ("read_block_bytes", "many", "number of bytes"),
        ("read_block_bytes", -1, "number of bytes"),
        ("read_block_bytes", None, "number of bytes"),
        ("write_block_bytes", 7, "two numbers of bytes"),
        ("write_block_bytes", (1, 2, 3), "two numbers of bytes"),
        ("nonsense", {"a": 1}, r"no setting dask_zv\.nonsense"),
        ("write_block_bytes", [1, {"a": 1}], "two numbers of bytes"),
        ("keep_input", float("inf"), "number of bytes"),
    ],
)
def test_what_is_none_is_refused_wherever_it_is_set(name, value, match):
    with pytest.raises(dzv.InputError, match=match), override(**{name: value}):
        raise AssertionError("not reached")
    with dask.config.set({f"dask_zv.{name}": value}), pytest.raises(dzv.InputError, match=match):
        settings()
    assert settings() is DEFAULTS
