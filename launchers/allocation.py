"""Where `vitq.launchers.slurm.job` was before 0.2: scripts of jobs that still wait in a queue start this."""

import sys

from vitq.launchers.slurm.job import main

if __name__ == "__main__":
    sys.exit(main())
