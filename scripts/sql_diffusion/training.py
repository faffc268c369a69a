"""Trains a network: the steps of one run, which can be stopped at any time, resumed and made longer. Needs torch, diffusers, accelerate.

`sql-diffusion train` and the programs that trained the bundled models share it. All randomness of a step comes from the
seed and the step's number, so a resumed run sees what one that was not interrupted would have seen.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel, UNet2DModel
from diffusers.training_utils import EMAModel, compute_snr
from torch.nn.functional import avg_pool2d


class Optimization(NamedTuple):
    """How a network learns."""

    learning_rate: float  # the full one, of AdamW
    ema_decay: float = 0.999  # of the averaged weights, which are the result
    warmup: int = 200  # steps
    fall: float = 0.3  # the last share of the run, where the learning rate falls to 0


def pixel_unet(channels: tuple[int, ...], head_dim: int, groups: int, size: int) -> UNet2DModel:
    """A U-Net of pictures with one resnet block a level and attention in the lower two levels."""
    plain = len(channels) - 2
    return UNet2DModel(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",) * 2,
        up_block_types=("AttnUpBlock2D",) * 2 + ("UpBlock2D",) * plain,
        attention_head_dim=head_dim,
        norm_num_groups=groups,
    )


def latent_unet(channels: tuple[int, ...], size: int, latents: int, text_width: int) -> UNet2DConditionModel:
    """A U-Net of latents with one resnet block a level; every level looks at the text, the finest too, or it ignores colours."""
    return UNet2DConditionModel(
        sample_size=size,
        in_channels=latents,
        out_channels=latents,
        layers_per_block=1,
        block_out_channels=channels,
        down_block_types=("CrossAttnDownBlock2D",) * len(channels),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
        use_linear_projection=True,
    )


def learning_rate_factor(step: int, steps: int, warmup: int, fall: float) -> float:
    """Share of the full learning rate at a step: linear warm-up, constant, then half a cosine down to zero.

    Until the fall begins, runs of every length are the same: so one can be made longer or shorter on the way.
    """
    start = steps * (1 - fall)
    if step < warmup:
        return (step + 1) / warmup
    if step < start:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - start) / (steps - start))))


def step_generator(seed: int, step: int) -> torch.Generator:
    """The random numbers of a step."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def even_timesteps(count: int, timesteps: int, generator: torch.Generator) -> torch.Tensor:
    """(count,), one of each of so many equal slices of the range: every batch covers all noise levels, the loss is steadier."""
    slices = torch.arange(count) + torch.rand(count, generator=generator)
    return (slices * timesteps / count).long()


def add_offset(
    noise: torch.Tensor, timesteps: torch.Tensor, scheduler: Any, amount: float, generator: torch.Generator
) -> torch.Tensor:
    """Noise (B, C, H, W) and an offset, one normal number a channel (N. Guttenberg 2023, Diffusion with Offset Noise).

    So the model learns to take a tint off a picture, and sampling undoes the tints that come of its own errors. It fades
    with the picture, by sqrt(alpha_cumprod): where there is little but noise, sampling meets no offset.
    """
    offsets = torch.randn(*noise.shape[:2], 1, 1, generator=generator)
    fading = scheduler.alphas_cumprod.cpu()[timesteps].sqrt().view(-1, 1, 1, 1)
    return noise + amount * fading * offsets


def denoising_loss(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    clean: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    gamma: float,
    multiscale: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss that is minimised, and the plain one (Ho et al. 2020, arXiv:2006.11239, eq. 14), which is only logged.

    predict(noisy, timesteps) answers what the scheduler's prediction_type says. The first loss has Min-SNR weights (Hang
    et al. 2023, arXiv:2303.09556, eq. 8), where gamma is not 0. If multiscale, the error's averages over blocks of k x k
    pixels count k times as well, k = 2, 4, 8, ... (Hoogeboom et al. 2023, arXiv:2301.11093, section 3.3): a plain loss
    hardly sees the error of a whole picture's mean, which the eye sees as a tinted background.
    """
    kind = scheduler.config.prediction_type
    targets = {
        "epsilon": lambda: noise,
        "v_prediction": lambda: scheduler.get_velocity(clean, noise, timesteps),
        "sample": lambda: clean,
    }
    difference = predict(scheduler.add_noise(clean, noise, timesteps), timesteps).float() - targets[kind]()
    plain = errors = difference.square().mean(dim=(1, 2, 3))  # (B,)
    block = 1
    while multiscale and difference.shape[-1] % 2 == 0 and difference.shape[-2] % 2 == 0:
        block *= 2
        difference = avg_pool2d(difference, 2)
        errors = errors + block * difference.square().mean(dim=(1, 2, 3))
    weights = torch.ones_like(plain)
    if gamma:
        snr = compute_snr(scheduler, timesteps)
        # what an error of the clean picture counts, in terms of what is predicted
        weights = snr.clamp(max=gamma) / {"epsilon": snr, "v_prediction": snr + 1, "sample": torch.ones_like(snr)}[kind]
    return (weights * errors).mean(), plain.mean().detach()


class Trainer:
    """A network that learns, its averaged weights, and the file that keeps both."""

    def __init__(self, network: Any, how: Optimization, checkpoint: Path, accelerator: Accelerator) -> None:
        self.how, self.checkpoint, self.accelerator = how, checkpoint, accelerator
        self.done, self.seconds = 0, 0.0  # steps, and what they took
        ema = EMAModel(network.parameters(), decay=how.ema_decay, use_ema_warmup=True, power=0.75)
        optimizer = torch.optim.AdamW(network.parameters(), how.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
        self.network, self.optimizer = accelerator.prepare(network, optimizer)
        self.ema = ema
        self.ema.to(accelerator.device)
        self.network.train()

    def resume(self) -> None:
        """Goes on where the checkpoint is."""
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.accelerator.unwrap_model(self.network).load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.ema.decay = self.how.ema_decay  # the state's own would win over the option
        self.ema.to(self.accelerator.device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.done, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Writes the checkpoint, never half of it."""
        state = {
            "network": self.accelerator.unwrap_model(self.network).state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.done,
            "seconds": self.seconds,
        }
        torch.save(state, self.checkpoint.with_suffix(".new"))
        self.checkpoint.with_suffix(".new").replace(self.checkpoint)

    @contextmanager
    def averaged(self) -> Iterator[Any]:
        """The network with its averaged weights, for as long as the context lasts."""
        network = self.accelerator.unwrap_model(self.network)
        self.ema.store(network.parameters())
        self.ema.copy_to(network.parameters())
        network.eval()
        try:
            with torch.no_grad():
                yield network
        finally:
            self.ema.restore(network.parameters())
            network.train()

    def update(
        self, steps: int, losses: Callable[[Any, int], tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[float, float]:
        """One step of a run of so many; what `losses` of the network and the step's number gave."""
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.how.learning_rate * learning_rate_factor(
                self.done, steps, self.how.warmup, self.how.fall
            )
        with self.accelerator.autocast():
            loss, plain = losses(self.network, self.done)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.network.parameters())
        self.done += 1
        self.seconds += time.perf_counter() - began
        return loss.item(), plain.item()
