"""This machine's own addresses, which no proxy may stand before: it could not reach them, or only after minutes."""

from __future__ import annotations

from collections.abc import MutableMapping

__all__ = ["LOOPBACK", "spare_loopback"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def spare_loopback(environment: MutableMapping[str, str]) -> None:
    """Let nothing that goes to this machine itself go through a proxy: it could not be reached there."""
    if not any(name.lower().endswith("_proxy") for name in environment):
        return
    known = [part for name in ("no_proxy", "NO_PROXY") for part in environment.get(name, "").split(",") if part.strip()]
    value = ",".join(dict.fromkeys([*(part.strip() for part in known), *LOOPBACK]))
    environment["no_proxy"] = environment["NO_PROXY"] = value
