"""What fits on this machine."""

from __future__ import annotations

import os


def too_large(needed: float, what: str) -> str | None:
    """Why `needed` bytes are not tried: more than half of the machine's memory; else None."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed <= total / 2:
        return None
    return f"its {what} need {needed / 1e9:.0f} GB of {total / 1e9:.0f} GB"
