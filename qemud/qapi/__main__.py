"""`python -m qemud.qapi`: see `qemud.qapi.main`."""

from __future__ import annotations

import sys

from qemud.qapi.main import main

sys.exit(main())
