"""Libraries that exports need and the package does not: imported when they are used."""

from __future__ import annotations

import importlib
from typing import Any


def library(name: str, extra: str) -> Any:
    """Return a module.

    Parameters
    ----------
    name : str
    extra : str
        The extra of this package that installs it.

    Raises
    ------
    ImportError
        It is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        raise ImportError(
            f"this export needs {missing.split('.')[0]}: pip install 'dask-zv[{extra}]'", name=error.name
        ) from error
