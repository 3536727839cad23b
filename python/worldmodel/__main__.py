"""`python -m worldmodel` is the console script `worldmodel`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
