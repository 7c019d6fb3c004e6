"""``python -m reconvene``, which is also how ``torchrun -m reconvene train DIR`` starts."""

import gc
import sys

from reconvene.cli import main


def program() -> int:
    """What the command ``reconvene`` runs: ``main`` in a process of its own, which ends after it."""
    code = main()
    # Python looks through every object for cycles when it ends, and those of torch take as long as a pruning. The
    # files of a command are closed by then, so that nothing waits for that search.
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(program())
