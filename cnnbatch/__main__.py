"""``python -m cnnbatch``: the ``cnnbatch`` command where its script is not on the PATH."""

import sys
from pathlib import Path

if __name__ == "__main__":
    if Path(sys.path[0]).resolve() != Path(__file__).parents[1]:
        del sys.path[0]  # the current folder, which `-m` puts there: a module of a user's is none of this program's
    from cnnbatch.cli import main

    sys.exit(main())
