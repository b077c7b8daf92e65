"""Connections of gRPC, by which TensorFlow's processes reach each other."""

from __future__ import annotations

import os


def ignore_http_proxy() -> None:
    """Lets gRPC connect directly, whatever ``http_proxy`` says.

    That variable is meant for the web.  gRPC obeys it also for machines of the same
    network and for this one, and then waits for ever.  A program that has set
    ``grpc_proxy`` keeps it.
    """
    os.environ.setdefault("grpc_proxy", "")


def is_used() -> bool:
    """Whether the user has set a proxy for gRPC, which may be the only way out."""
    return bool(os.environ.get("grpc_proxy"))
