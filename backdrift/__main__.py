"""`python -m backdrift` and the `backdrift` script."""

import sys

from backdrift.cli import main

if __name__ == "__main__":
    sys.exit(main())
