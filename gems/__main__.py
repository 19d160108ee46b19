"""python -m flag_gems: see cli.py."""

import sys

from flag_gems.cli import main

sys.exit(main())
