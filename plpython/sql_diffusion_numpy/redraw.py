"""Pictures that begin with a picture: how their steps begin, noise being drawn in the order of diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .pipeline import Beginning, Streams, binary_mask, sample_latent
from .schedulers import F, ScheduleStep, add_noise, scaled


def beginning_of(
    image: np.ndarray,
    mask: np.ndarray | None,
    settings: Mapping[str, Any],
    encode: Callable[[np.ndarray], np.ndarray],
) -> Callable[[list[int], ScheduleStep], Beginning]:
    """What makes the beginning for some seeds and the first step of a schedule, of an image and a mask (channels,
    height, width), values 0 to 1, by the columns of sql_diffusion.redraw_settings; sql_diffusion.redraw_beginning tells it
    step by step.

    encode is the encoder of the model's autoencoder, which runs once however many seeds there are.
    """
    picture = 2 * image - 1
    shape, variational = settings["latent_shape"], settings["variational"]
    small_mask = white = None
    if mask is not None:
        white = binary_mask(mask, np.rint(mask * F(255)))
        nth = settings["height"] // shape[1]
        small_mask = white[:, ::nth, ::nth]

    def encoded(picture: np.ndarray) -> np.ndarray:
        return picture if settings["autoencoder"] is None else encode(picture)

    whole = encoded(picture) if settings["encodes_image"] else None
    rest = encoded(picture * (1 - white)) if settings["shows_mask"] and white is not None else None

    def latents(encoded: np.ndarray, streams: Streams) -> np.ndarray:
        """(batch, channels, height, width), of a distribution samples."""
        if variational:
            noise = streams.draw(shape)
            return scaled(sample_latent(np.broadcast_to(encoded, (len(noise), *encoded.shape)), noise), factor)
        return np.repeat(scaled(encoded, factor)[None], len(streams.generators), axis=0)

    factor = 1 if settings["autoencoder"] is None else settings["scaling_factor"]

    def begin(seeds: list[int], step: ScheduleStep) -> Beginning:
        streams = Streams(seeds)
        shown = np.repeat(picture[None], len(seeds), axis=0) if settings["shows_image"] else None
        if shown is not None and settings["added_noise"] is not None:
            noised = settings["added_original"] * shown.astype(np.float64)
            shown = (noised + settings["added_noise"] * streams.draw(picture.shape).astype(np.float64)).astype(F)
        original = None if whole is None else latents(whole, streams)
        noise = streams.draw(shape)
        if rest is not None and small_mask is not None:
            masks = np.broadcast_to(small_mask, (len(seeds), *small_mask.shape))
            shown = np.concatenate([masks, latents(rest, streams)], axis=1)
        elif settings["keeps_image"] and variational:
            streams.draw(shape)  # for what the U-Net would see, if it saw it
        if settings["begins_with_noise"] or original is None:
            sample = scaled(noise, step.initial_noise)
        else:
            sample = add_noise(original, noise, step)
        if not settings["keeps_image"]:
            return Beginning(sample, streams, shown, settings["scales_shown"])
        return Beginning(sample, streams, shown, settings["scales_shown"], original, noise, small_mask)

    return begin
