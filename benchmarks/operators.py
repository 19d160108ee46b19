"""Each row of the operator table against ATen: the same as `python -m flag_gems bench`, with its options."""

import sys

from flag_gems.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
