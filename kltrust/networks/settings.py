"""The settings of `actor_critic`; they need no network library."""

from __future__ import annotations

from kltrust.settings import setting, settings
from kltrust.types import Number


@settings
class NetworkSettings:
    """Policy and value network."""

    hidden: tuple[int, ...] = setting(
        (64, 64),
        "Widths of the dense layers.",
        at_least=1,
        at_most=2**16,
        usual="(64, 64) (Schulman et al. 2017) to (256, 256, 256)",
        common=True,
    )
    activation: str = setting(
        "tanh",
        "The activation: tanh, relu, elu, gelu or silu.",
        choices=("tanh", "relu", "elu", "gelu", "silu"),
        usual="tanh (the papers), relu, elu",
        common=True,
    )
    channels: tuple[int, ...] = setting(
        (16,),
        "Channels of the 3 x 3 convolutions before the dense layers, for observations "
        "[H, W, C]. Without padding, each one removes two rows and two columns. () "
        "flattens the image instead.",
        at_least=1,
        at_most=2**12,
        usual="(16,) for 10 x 10 images (Young and Tian 2019, MinAtar)",
    )
    init_log_std: Number = setting(
        0.0,
        "Log standard deviation of a Gaussian policy at the start, in units of the action space.",
        usual="-1 to 0",
    )
    state_dependent_std: bool = setting(
        False, "Whether the Gaussian's standard deviation depends on the state.", usual="off"
    )
    cell: str = setting(
        "none",
        "Memory after the dense layers, as wide as the last one: none, gru or mingru. "
        "Policy and critic have separate ones.",
        choices=("none", "gru", "mingru"),
        usual="none; gru or mingru where observations hide the state",
        common=True,
    )

    def check(self) -> None:
        """Refuses a cell if there is no layer from which it takes its width."""
        if self.cell != "none" and not self.hidden:
            raise ValueError(
                "hidden must hold at least one width, since the cell is as wide as the "
                "last one; got "
                f"cell={self.cell!r}, hidden={self.hidden!r}"
            )
