"""`python -m graphnn` is the command `graphnn`."""

import sys

from graphnn.cli import main

if __name__ == "__main__":
    sys.exit(main())
