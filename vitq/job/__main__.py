"""`python -m vitq.job`."""

import sys

from vitq.job.worker import main

if __name__ == "__main__":
    sys.exit(main())
