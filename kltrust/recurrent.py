"""The former name of `kltrust.networks.recurrent`."""

import sys

from kltrust.networks import recurrent

sys.modules[__name__] = recurrent
