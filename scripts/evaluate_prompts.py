"""How far pictures show what their prompts ask for: a classifier that knows drawn butterflies looks at what a database makes.

    python scripts/evaluate_prompts.py classifier                      # learns from drawings, and says how often it is right
    python scripts/evaluate_prompts.py pictures                        # 200 prompts that nobody learned from, by attribute

An attribute that a prompt leaves open is not counted. What the classifier itself gets wrong in drawings is printed beside it.
Below stands the Frechet distance to drawings, in the feature space of evaluate_butterflies.py, of as many held-out drawings and of
the pictures.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from describe_butterflies import CLASSES, choose_look, describe, draw_described, encode_named
from draw_butterflies import grid_picture
from evaluate_butterflies import embed, fit_space, frechet_distance
from sql_diffusion.training import Optimization, step_generator
from train_prompts import RUN, Run, learned_from, load_pictures, optimize

app = typer.Typer(add_completion=False, no_args_is_help=True)
SIZES = [len(classes) for classes in CLASSES.values()]
FIRST_SEED = 1_000_000  # of drawings and prompts that nobody learned from
COMPARED = 2000  # drawings, of those that were learned from, that pictures are compared with


def new_classifier() -> nn.Module:
    """Pictures (N, 3, H, W) in -1..1 to the scores of all classes of all attributes (N, sum of SIZES)."""
    layers: list[nn.Module] = []
    channels = 3
    for wider in (16, 32, 64, 96):
        layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1), nn.BatchNorm2d(wider), nn.ReLU()]
        channels = wider
    # 8 by 8 places remain of 128 pixels; where a thing is tells fore wings from hind wings
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(8), nn.Flatten(), nn.Linear(64 * channels, sum(SIZES)))


def classify(network: Any, pictures: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The classes (N, attributes) of pictures (N, H, W, 3)."""
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        parts = [network(part).split(SIZES, dim=1) for part in images.split(64)]
    found: NDArray[np.int64] = torch.cat([torch.stack([s.argmax(1) for s in part], 1) for part in parts]).numpy()
    return found


@app.command()
def classifier(
    run: Run = RUN, steps: int = 2000, batch: int = 32, learning_rate: float = 1e-3, every: int = 250
) -> None:
    """Train the classifier on the described drawings of the run's folder."""
    torch.manual_seed(0)
    pictures, looks = load_pictures(run)
    wanted = torch.from_numpy(looks.astype(np.int64))
    learned = learned_from(pictures)

    def losses(network: Any, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = step_generator(4, step)
        rows = torch.randint(learned, (batch,), generator=generator)
        images = pictures[rows].float() / 127.5 - 1
        # what a model makes is never as clean as a drawing
        images = images + 0.1 * torch.rand(batch, 1, 1, 1, generator=generator) * torch.randn(
            images.shape, generator=generator
        )
        scores = network(images).split(SIZES, dim=1)
        loss = torch.stack([cross_entropy(each, wanted[rows, n]) for n, each in enumerate(scores)]).sum()
        return loss, loss.detach()

    def look(network: Any) -> dict[str, float]:
        found = classify(network, pictures[learned:].permute(0, 2, 3, 1).numpy())
        return dict(zip(CLASSES, (found == looks[learned:]).mean(0).round(4).tolist(), strict=True))

    # the averages of the batches' means and deviations are no weights, so the weights are not averaged either
    network = new_classifier()
    trainer = optimize(
        "classifier", network, Optimization(learning_rate, 0.0, 100, 0.5), steps, run, losses, look, every
    )
    torch.save(trainer.network.state_dict(), run / "classifier_weights.pt")


def held_out_drawings(count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Drawings of seeds that nobody learned from, and their looks."""
    drawn = [draw_described(FIRST_SEED + number) for number in range(count)]
    return np.stack([picture for picture, _ in drawn]), np.array([look for _, look in drawn])


def held_out_prompts(count: int) -> tuple[list[str], NDArray[np.int64]]:
    """Prompts, and what each names; 0 is what it leaves open."""
    described = []
    for number in range(count):
        rng = np.random.default_rng([FIRST_SEED + number, 3])
        described.append(describe(choose_look(rng), rng))
    return [each.caption for each in described], np.array([encode_named(each.named) for each in described])


def ask(prompts: list[str], model: str, database: str, batch: int = 10) -> NDArray[np.uint8]:
    """A picture of each prompt, by the extension; the seed is the prompt's number."""
    import psycopg  # only this needs a database

    pictures = []
    with psycopg.connect(database) as connection:
        for first in range(0, len(prompts), batch):
            some = prompts[first : first + batch]
            rows = connection.execute(
                "select image_png(t.image) from text_to_image(%s::text[], %s::bigint[], %s) "
                "with ordinality t (prompt, seed, image, number) order by t.number",
                [some, list(range(first, first + len(some))), model],
            ).fetchall()
            pictures += [np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) for (png,) in rows]
    return np.stack(pictures)


@app.command("pictures")
def evaluate(
    run: Run = RUN,
    model: str = "prompted-butterflies",
    count: Annotated[int, typer.Option(help="Prompts.", min=1)] = 200,
    database: Annotated[str, typer.Option(help="Connection string; the rest is libpq's PG* settings.")] = "",
    grid: Annotated[Path | None, typer.Option(help="A PNG of the first 36 pictures.")] = None,
) -> None:
    """Ask a database for pictures of prompts, and print a line an attribute: how many show what was asked for."""
    network = new_classifier()
    network.load_state_dict(torch.load(run / "classifier_weights.pt", weights_only=True))
    network.eval()
    drawings, looks = held_out_drawings(count)
    known = (classify(network, drawings) == looks).mean(0)
    prompts, named = held_out_prompts(count)
    pictures = ask(prompts, model, database)
    if grid is not None:
        grid_picture(pictures[:36], 6).save(grid)
    found = classify(network, pictures)
    print("| attribute | asked for | obeyed | classifier, of drawings |\n| --- | ---: | ---: | ---: |")
    for number, name in enumerate(CLASSES):
        asked = named[:, number] > 0
        right = (found[asked, number] + 1 == named[asked, number]).mean() if asked.any() else float("nan")
        print(f"| {name} | {asked.sum()} | {right:.1%} | {known[number]:.1%} |")
    drawn = load_pictures(run)[0][:COMPARED].permute(0, 2, 3, 1).numpy()
    space = fit_space(drawn)
    print("\n| | frechet |\n| --- | ---: |")
    for name, some in (("held-out drawings", drawings), ("pictures", pictures)):
        print(f"| {name} | {frechet_distance(embed(space, drawn), embed(space, some)):.1f} |")
    wrong = [
        {
            "seed": seed,
            "prompt": prompt,
            "wrong": [name for n, name in enumerate(CLASSES) if row[n] and one[n] + 1 != row[n]],
        }
        for seed, (prompt, row, one) in enumerate(zip(prompts, named, found, strict=True))
    ]
    (run / "wrong.json").write_text(json.dumps([each for each in wrong if each["wrong"]], indent=1) + "\n")


if __name__ == "__main__":
    app()
