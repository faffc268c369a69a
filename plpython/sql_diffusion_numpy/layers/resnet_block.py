"""The residual block, diffusers' ResnetBlock2D (He et al. 2015, arXiv:1512.03385; Ho et al. 2020, appendix B)."""

from __future__ import annotations

import numpy as np

from .conv2d import Activation, convolve, extent
from .group_norm import Norm
from .modules import Layout, Network, PlanRow, Read, joined, lay_out_module, lay_out_norm, norm_of


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    """All but time_emb_proj, which unet.lay_out joins with those of the other blocks."""
    key = row.key
    lay_out_norm(layout, read, f"{key}.norm1")
    lay_out_module(layout, read, f"{key}.conv1", height, width)
    lay_out_norm(layout, read, f"{key}.norm2")
    lay_out_module(layout, read, f"{key}.conv2", height, width)
    if row.in_channels != row.out_channels:
        lay_out_module(layout, read, f"{key}.conv_shortcut", height, width)


def resnet_block(network: Network, row: PlanRow, activation: Activation, projected: np.ndarray) -> Activation:
    """norm1, SiLU, conv1, the projected time embedding, norm2, SiLU, conv2, and the input again.

    projected: (channels), or (2 * channels), scale and shift, with time_scale_shift scale_shift.
    """
    key, settings, convolutions = row.key, row.settings, network.convolutions
    groups, eps = settings["num_groups"], settings["eps"]
    shortcut = convolutions.get(f"{key}.conv_shortcut")
    residual = joined(activation) if shortcut is None else convolve(activation, shortcut, statistics=False)[0].values
    conv1, conv2 = convolutions[f"{key}.conv1"], convolutions[f"{key}.conv2"]
    scale_shift = settings["time_scale_shift"] == "scale_shift"
    bias = conv1.bias if scale_shift else conv1.bias + projected
    hidden = convolve(
        activation,
        conv1,
        norm_of(network, activation, f"{key}.norm1", groups, eps, True),
        bias=np.broadcast_to(bias, (extent(activation)[0], len(bias))),
    )
    norm = norm_of(network, hidden, f"{key}.norm2", groups, eps, True)
    if scale_shift:
        scale, shift = np.split(projected, 2)
        norm = Norm(norm.scale * (1 + scale), norm.shift * (1 + scale) + shift, True)
    return convolve(hidden, conv2, norm, residual=residual, output_scale=1 / settings["output_scale_factor"])
