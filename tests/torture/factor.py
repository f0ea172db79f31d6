"""How much is tried: 1 in `make test`, where all of it takes seconds, and more in `make torture`."""

from __future__ import annotations

import os

FACTOR = float(os.environ.get("SILTSTONE_TORTURE", "1"))
