"""A group norm, and SiLU after it where the settings say so: left for the step behind to do."""

from __future__ import annotations

from typing import Any

from ..layers.modules import Layout, Network, Normalized, PlanRow, Read, Value, lay_out_norm, norm_of, plain


def lay_out(layout: Layout, read: Read, row: PlanRow, height: int, width: int) -> None:
    lay_out_norm(layout, read, row.key)


def run(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    activation, settings = plain(inputs[0]), row.settings
    norm = norm_of(network, activation, row.key, settings["num_groups"], settings["eps"], settings["silu"])
    return Normalized(activation, norm)
