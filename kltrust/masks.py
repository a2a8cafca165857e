"""The former name of `kltrust.networks.masks`."""

import sys

from kltrust.networks import masks

sys.modules[__name__] = masks
