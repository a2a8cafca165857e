"""The algorithms: one file for each, a declaration with ``init`` and ``update``.

They never see an environment, a value function or a clock: a batch in, new parameters out. Every
module of this package is imported; ``kltrust.algorithms.trpo``, say, is the class declared there.
"""

import importlib
import pkgutil

from kltrust.algorithms import _registry
from kltrust.algorithms._registry import (
    algorithm,
    algorithm_names,
    as_update,
    find_algorithm,
    register_algorithm,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

globals().update(_registry._declared)
__all__ = [
    "algorithm",
    "algorithm_names",
    "as_update",
    "find_algorithm",
    "register_algorithm",
    *sorted(_registry._declared),
]
