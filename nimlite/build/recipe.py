"""What becomes of a checkpoint's weights before a device packs them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from nimlite.models.spec import ENCODER
from nimlite.quant.rounded import RoundedMatrix

Quantizer = Callable[[str, torch.Tensor], RoundedMatrix | None]
"""An engine tensor's name and its weight in fp32, smoothed, to what it is rounded to; None: as the
device's format does. Several threads may call it."""
_EXPERTS = ("experts_up", "experts_down")
_CHOOSERS = ("router", "shared_gate")
"""They are small, and a rounded one chooses other experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the weights of the layers are changed and rounded. The vocabulary's are not."""

    factors: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """By engine tensor, what its input features (of a norm: its elements) are multiplied by."""
    quantizer: Quantizer | None = None
    """None: the device's format rounds as it does."""
    kept: frozenset[str] = frozenset()
    """Engine tensors that are held as the vocabulary is, in 16 bits."""
    rounds_experts: bool = False
    """Else the device's format rounds them, to nearest: of texts that fit into a calibration many
    an expert sees too few tokens to be measured by."""

    @property
    def folded_norms(self) -> int:
        """Norms that hold the inverse of what the linears behind them are multiplied by."""
        return sum(name.endswith("_norm") for name in self.factors)

    def scaled(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """A part of the engine tensor `name`, times its factors."""
        if name not in self.factors:
            return part
        return part.float() * self.factors[name].to(part.device)

    def rounded(self, name: str, weight_NC: torch.Tensor) -> RoundedMatrix | None:
        """The engine tensor `name`, rounded; None where that is left to the device's format."""
        kind = name.rpartition(".")[2]
        is_left = kind in _CHOOSERS or (kind in _EXPERTS and not self.rounds_experts)
        is_left = is_left or name in self.kept
        is_layer = name.removeprefix(ENCODER).startswith("layers.")
        if self.quantizer is None or not is_layer or is_left:
            return None
        return self.quantizer(name, weight_NC.float())


AS_IT_IS = Recipe()
"""Nothing is changed."""
