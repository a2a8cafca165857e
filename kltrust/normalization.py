"""The former name of `kltrust.rollout.normalization`."""

import sys

from kltrust.rollout import normalization

sys.modules[__name__] = normalization
