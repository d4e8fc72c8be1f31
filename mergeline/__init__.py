"""mergeline: merge neural networks that were trained apart, without training.

>>> import mergeline
>>> mergeline.merge  # doctest: +ELLIPSIS
<function merge at ...>
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergeline.api import MergeResult, merge

__all__ = ["MergeResult", "merge"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``merge`` is loaded when asked for, as it needs torch."""
    if name in __all__:
        from mergeline import api

        return getattr(api, name)
    raise AttributeError(f"module 'mergeline' has no attribute {name!r}")
