"""``python -m kltrust.experiments.cli``."""

import sys

from kltrust.experiments.cli import main

sys.exit(main())
