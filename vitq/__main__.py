"""`python -m vitq`."""

import sys

from vitq.cli import main

sys.exit(main())
