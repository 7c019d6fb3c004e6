"""``python -m reconvene``, which is also how ``torchrun -m reconvene train DIR`` starts."""

import sys

from reconvene.cli import main

sys.exit(main())
