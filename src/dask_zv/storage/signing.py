"""Check that credentials are given before a library asks the metadata service of a cloud for them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from dask_zv.errors import InputError
from dask_zv.storage.handles import public_url

_KEYS = {
    "s3": {
        "access_key_id", "key", "username", "session", "credential_provider", "web_identity_token_file", "skip_signature",
        "anon",
    },
    "az": {
        "account_key", "access_key", "sas_key", "sas_token", "token", "bearer_token", "client_secret", "connection_string",
        "credential", "credential_provider", "federated_token_file", "use_azure_cli", "skip_signature", "anon", "use_emulator",
    },
}  # fmt: skip
"""Options, without the prefix of their cloud, that say how requests are signed, or that they are not."""
_CLOUDS = {"s3": (".amazonaws.com", ".amazonaws.com.cn"), "az": (".windows.net", ".azure.com", ".chinacloudapi.cn")}
"""How the names of a cloud's own servers end: there a machine of the cloud may ask what its role is."""
_PREFIXES = ("aws_", "azure_storage_", "azure_")


def check_signed(url: str, options: Mapping[str, Any], *, files: bool = False) -> None:
    """Raise :class:`InputError` for a server that is not the cloud's own where nothing says how requests are signed.

    Libraries would ask the metadata service of the cloud for a key, which no such server knows, and wait for it where there is
    none. Keys in the environment count, with `files` those in the files of the cloud's tools as well.
    """
    cloud = {"s3a": "s3", "abfs": "az", "abfss": "az"}.get(scheme := url.partition("://")[0], scheme)
    if cloud not in _KEYS:
        return
    given = {k: v for k, v in options.items() if k != "client_kwargs"} | dict(options.get("client_kwargs") or {})
    told = {
        _plain_name(k): v for source in (os.environ, given) for k, v in source.items() if source is given or _is_of(k, cloud)
    }
    servers = [str(told[k]) for k in ("endpoint", "endpoint_url", "endpoint_url_s3") if told.get(k)]
    if servers and "://" not in servers[0]:
        raise InputError(f"endpoint_url={servers[0]!r:.80} begins with http:// or https://")
    host = urlsplit(servers[0]).hostname or "" if servers else ""
    if not servers or host.endswith(_CLOUDS[cloud]) or any(_means(told.get(k)) for k in _KEYS[cloud]):
        return
    if files and cloud == "s3" and _has_aws_files(told.get("profile")):
        return
    options_of = "key= and secret=" if cloud == "s3" else "account_name= and account_key= (or sas_token=)"
    raise InputError(
        f"no key given for '{public_url(url)}' at {host}: pass {options_of} in storage_options, or anon=True if it is public"
    )


def _plain_name(option: str) -> str:
    name = option.lower()
    return next((name.removeprefix(p) for p in _PREFIXES if name.startswith(p)), name)


def _is_of(variable: str, cloud: str) -> bool:
    """Return True for a variable of the environment that signs requests, or names the server; roles of machines don't."""
    name = variable.lower()
    return name.startswith("aws_" if cloud == "s3" else "azure_") and "token_file" not in name


def _means(value: Any) -> bool:
    """Return True for an option that is given and not switched off."""
    return bool(value) and str(value).lower() not in ("false", "0", "no")


def _has_aws_files(profile: Any) -> bool:
    """Return True if botocore, which s3fs signs with, finds a key without asking the services of a machine's role."""
    if importlib.util.find_spec("botocore") is None:
        return True  # whoever signs knows
    from botocore.exceptions import BotoCoreError
    from botocore.session import Session

    session = Session(profile=profile)
    try:
        providers = session.get_component("credential_provider")
        for name in ("container-role", "iam-role"):
            providers.remove(name)
        return session.get_credentials() is not None
    except BotoCoreError:  # such as a profile that is not there: s3fs says so
        return True
