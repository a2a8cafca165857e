"""The former name of `kltrust.tokens`."""

import sys

from kltrust import tokens

sys.modules[__name__] = tokens
