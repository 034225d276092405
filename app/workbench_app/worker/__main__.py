"""The worker's process: see :mod:`workbench_app.worker.process`."""

import sys

from workbench_app.worker.process import main

if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:3])
