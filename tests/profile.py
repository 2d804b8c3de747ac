"""How long the tests may take that are the better the longer they run.

``make conformance`` and ``make sweep`` set HYPOTHESIS_PROFILE.
"""

import os
from typing import Final

__all__ = ["LONG"]

LONG: Final = os.environ.get("HYPOTHESIS_PROFILE") == "long"
