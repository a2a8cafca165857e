"""Operations that are written for how a processor computes them, each once and by name.

The mathematics calls the name and says what it wants; how that is computed is decided here, by the
platform that a program is lowered for. On a CPU memory and arithmetic cost; on a GPU or TPU it is
the number of kernels that wait for each other.
"""

from __future__ import annotations

from kltrust.lowering._choose import choose
from kltrust.lowering._permutation import permutation
from kltrust.lowering._products import conv3x3, head_product
from kltrust.lowering._quantiles import quantiles
from kltrust.lowering._scans import recording_scan, scan
from kltrust.lowering._shortcut import shortcut

__all__ = [
    "choose",
    "conv3x3",
    "head_product",
    "permutation",
    "quantiles",
    "recording_scan",
    "scan",
    "shortcut",
]
