"""``python -m graphopt.cli``: the same as the command ``graphopt``."""

import sys

from . import main

sys.exit(main())
