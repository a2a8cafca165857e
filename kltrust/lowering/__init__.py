"""Operations that are written for how a processor computes them, each once and by name.

The mathematics calls the name and says what it wants; how that is computed is decided here. What
these are written for is a CPU.
"""

from __future__ import annotations

from kltrust.lowering._choose import choose
from kltrust.lowering._permutation import permutation
from kltrust.lowering._products import conv3x3, head_product
from kltrust.lowering._quantiles import quantiles

__all__ = ["choose", "conv3x3", "head_product", "permutation", "quantiles"]
