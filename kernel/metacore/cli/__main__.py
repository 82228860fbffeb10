"""`python -m metacore.cli`: the command without its script."""

import sys

from metacore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
