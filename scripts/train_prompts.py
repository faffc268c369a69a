"""Train the bundled model that takes a prompt: a small latent diffusion model of drawn butterflies with captions.

Its parts are trained one by one, each by a command that can be stopped and resumed, and that keeps its files in one
folder. Needs the `train` extra.

    python scripts/describe_butterflies.py --count 10000 build/prompts/described.npz
    python scripts/train_prompts.py text          # the tokenizer and the text encoder, which learns to tell what captions name
    python scripts/train_prompts.py decoder       # latents to pictures
    python scripts/train_prompts.py unet          # noise to latents, given the text encoder's states
    python scripts/train_prompts.py encoder       # pictures to latents
    python scripts/train_prompts.py assemble models/prompted

The latents are not learned: they are the first principal components of the 8x8 blocks of the pictures (`Blocks`). So the
U-Net and the decoder can learn at the same time, and the encoder learns last what the blocks give exactly.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel, compute_snr
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from describe_butterflies import CLASSES, choose_look, decode_look, describe, encode_look, encode_named
from draw_butterflies import draw_butterfly, grid_picture
from train_butterflies import learning_rate_factor

app = typer.Typer(add_completion=False)
Folder = Annotated[Path, typer.Option(help="Where data, checkpoints and samples are kept.")]
Steps = Annotated[int, typer.Option(help="Training steps of the whole run.", min=1)]
LENGTH = 40  # tokens of a prompt
WIDTH = 64  # of the text encoder's states
CHANNELS = 8  # of a latent
FACTOR = 8  # pixels of a picture for one of a latent
RUN = Path("build/prompts")


def save_checkpoint(file: Path, **state: Any) -> None:
    torch.save(state, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)


def log_line(file: Path, **values: Any) -> None:
    with file.open("a") as log:
        print(json.dumps(values), file=log)


@app.callback()
def parts() -> None:
    """Train the parts of the model that takes a prompt."""


# --- text --------------------------------------------------------------------------------------------------------------


def train_tokenizer(captions: list[str], merges: int, folder: Path) -> CLIPTokenizer:
    """A CLIPTokenizer whose merges are those of the captions; it knows all bytes, so any text."""
    pieces = [piece for text in captions for piece in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", text.lower())]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    counted = Counter(pieces)
    bpe.train_from_iterator(
        (" ".join([piece] * count) for piece, count in counted.items()),
        trainers.BpeTrainer(vocab_size=merges + 60, end_of_word_suffix="</w>", show_progress=False),
    )
    learned = [
        tuple(m) if not isinstance(m, str) else tuple(m.split(" ")) for m in json.loads(bpe.to_str())["model"]["merges"]
    ][:merges]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    joined = dict.fromkeys("".join(pair) for pair in learned)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *joined, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: n for n, token in enumerate(tokens)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in learned))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "CLIPTokenizer",
                "model_max_length": LENGTH,
                "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>",
                "unk_token": "<|endoftext|>",
                "pad_token": "<|endoftext|>",
            }
        )
    )
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    found = tokenizer(captions, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
    return found.input_ids


def captions_of(rng: np.random.Generator, count: int) -> tuple[list[str], np.ndarray[Any, Any]]:
    """Captions of looks at random, and what they name as numbers."""
    described = [describe(choose_look(rng), rng) for _ in range(count)]
    return [d.caption for d in described], np.array([encode_named(d.named) for d in described])


@app.command()
def text(run: Folder = RUN, steps: Steps = 2500, batch: int = 96, rate: float = 2e-3, merges: int = 240) -> None:
    """The tokenizer, and the text encoder: the states at a caption's end must tell all that it names."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    captions, named = captions_of(rng, 30000)
    tokenizer = train_tokenizer(captions, merges, run / "tokenizer")
    tokens, targets = tokenize(tokenizer, captions), torch.from_numpy(named)
    eos = tokenizer.eos_token_id
    print("longest caption:", int((tokens != eos).sum(1).max()) + 1, "vocabulary:", len(tokenizer))
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=eos,
        pad_token_id=eos,
        projection_dim=WIDTH,
    )
    encoder = CLIPTextModel(config)
    sizes = [len(classes) + 1 for classes in CLASSES.values()]
    head = torch.nn.Linear(WIDTH, sum(sizes))
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *head.parameters()], rate, betas=(0.9, 0.99), weight_decay=1e-3
    )

    def errors(chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = encoder(tokens[chosen]).last_hidden_state
        logits = head(states).split(sizes, dim=-1)
        ended = (tokens[chosen] == eos).float()  # (B, L)
        loss, right = torch.zeros(()), []
        for number, scores in enumerate(logits):
            wanted = targets[chosen, number]
            each = F.cross_entropy(scores.transpose(1, 2), wanted[:, None].expand(-1, LENGTH), reduction="none")
            loss = loss + (each * ended).sum() / ended.sum()
            right.append((scores[:, -1].argmax(-1) == wanted).float().mean())
        return loss, torch.stack(right)

    train = len(captions) - 1000
    began = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate_factor(step, steps, 100, 0.5)
        loss, right = errors(torch.randint(train, (batch,)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        if step % 200 == 199:
            print(
                step + 1,
                round(loss.item(), 4),
                [round(float(r), 3) for r in right],
                round(time.time() - began),
                flush=True,
            )
    with torch.no_grad():
        loss, right = errors(torch.arange(train, len(captions)))
    print("held out:", round(loss.item(), 4), dict(zip(CLASSES, (round(float(r), 4) for r in right), strict=True)))
    encoder.save_pretrained(run / "text_encoder")
    torch.save(head.state_dict(), run / "text_head.pt")


if __name__ == "__main__":
    app()
