"""A page that follows runs while they go on: reads run folders, and writes nothing."""

from kltrust.lazy import require_sweeps

require_sweeps("a page that follows runs")

from kltrust.experiments.watch._server import Server as Server  # noqa: E402
from kltrust.experiments.watch._state import State as State  # noqa: E402
