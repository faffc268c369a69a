"""The command line: sql-diffusion load, list, show, remove, generate, run, train, verify, doctor."""

import json
import os
import re
import secrets
import shlex
import sys
from contextlib import ExitStack
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from . import __version__, database, errors, models
from .errors import Problem

EXIT_CODES = (
    "Exit codes: 0 done; 1 a check failed (verify, doctor) or rows did (run); 2 wrong command line; 3 the database (no connection, "
    "extension missing, refused); 4 the checkpoint (not found, incomplete, damaged, unsupported); 5 the model "
    "(unknown, or there already); 130 interrupted."
)

app = typer.Typer(
    name="sql-diffusion",
    help="Loads diffusion models from Hugging Face into PostgreSQL and generates pictures there. "
    "Connects as psql does: by --dsn, PGHOST and its kin, PGSERVICE, ~/.pgpass.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
out = Console(highlight=False, emoji=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

Dsn = Annotated[
    str,
    typer.Option(
        metavar="DSN", help="Where the database is, as psql takes it: 'host=... dbname=...', a URI, 'service=...'."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model's name, as `sql-diffusion list` prints it.")]


class Backend(StrEnum):
    """What computes."""

    auto = "auto"
    sql = "sql"
    numpy = "numpy"
    torch = "torch"


class Device(StrEnum):
    """Where training computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def examples(*lines: str) -> str:
    """The last part of a command's help; an empty line keeps the lines apart."""
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines)])


@app.callback(invoke_without_command=True)
def version_option(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    """Answers --version."""
    if version:
        typer.echo(f"sql-diffusion {__version__}")
        raise typer.Exit


@app.command(
    epilog=examples(
        "sql-diffusion load gnokit/ddpm-butterflies-64",
        "sql-diffusion load ./my-pipeline --name mine --replace",
        "HF_HUB_OFFLINE=1 sql-diffusion load google/ddpm-cifar10-32 --dsn service=pictures",
        "sql-diffusion load ./model.safetensors --vae ./vae.safetensors --lora ./style.safetensors:0.8",
    )
)
def load(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A repository of the hub, a folder, a .safetensors file beside its config.json, or one that holds a "
            "whole pipeline: on disk, or as owner/name/file on the hub.",
        ),
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call the model; the repository's name by default.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(metavar="REVISION", help="A branch, tag or commit of the repository.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="VARIANT", help="Such as fp16; by default the plain weights, or the only variant there is."
        ),
    ] = None,
    vae: Annotated[
        str | None,
        typer.Option(metavar="SOURCE", help="Another autoencoder: a folder, a repository or a .safetensors file."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE[:SCALE]", help="A LoRA file to merge into the networks; can be given again."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="For a file that holds a whole pipeline: a folder or repository whose configurations and tokenizers "
            "it goes with; by default what its shapes tell, and CLIP's tokenizer from the hub.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Replace a model of that name; readers see the old one until the new one is whole."
        ),
    ] = False,
    pack: Annotated[
        bool | None,
        typer.Option(
            "--pack/--no-pack",
            help="Pack its kernels, for pictures in pure SQL in half the time and ten times the room; "
            "by default where pure SQL draws, and the model is small.",
        ),
    ] = None,
    dsn: Dsn = "",
    as_json: Json = False,
) -> None:
    """Load a checkpoint from the Hugging Face hub or from disk.

    It is written in one transaction: a model appears whole, and an interrupted load leaves nothing behind.
    """
    from .load import Request
    from .load import load as load_checkpoint

    with database.connect(dsn) as connection, byte_progress() as progress:
        database.extension_schema(connection)
        request = Request(source, revision, variant, config, vae, tuple(lora or ()))
        loaded = load_checkpoint(connection, request, name, replace, progress)
        progress.add_task("Packing", total=None, visible=pack is not False)
        try:
            packed, advice = models.pack_model(connection, loaded.name, loaded.parameters, pack)
        except KeyboardInterrupt:
            err.print(
                f"Loaded {loaded.name}, but not packed it: {models.pack_query(loaded.name)} does that", markup=False
            )
            raise
    for note in [*loaded.notes, *([advice] if advice else [])]:
        err.print(f"Note: {note}", markup=False)
    if as_json:
        print_json({**loaded._asdict(), "packed": packed})
    else:
        typer.echo(
            f"Loaded {loaded.name}: {loaded.parameters:,} parameters, "
            f"{megabytes(loaded.bytes)} of {loaded.dtype}, from {loaded.source}"
            + (", packed for pure SQL" if packed else "")
        )
        if loaded.writes_text:
            quoted = psycopg.sql.quote(loaded.name)
            typer.echo(f"Next, in psql: select text from gpt_generate('A butterfly with', model => {quoted});")
            return
        suggest_picture(loaded.name, "a blue butterfly" if loaded.takes_text else None)


@app.command("list", epilog=examples("sql-diffusion list", "sql-diffusion list --json | jq -r '.[].name'"))
def list_command(dsn: Dsn = "", as_json: Json = False) -> None:
    """List the models in the database."""
    with database.connect(dsn) as connection:
        database.extension_schema(connection)
        summaries = models.list_models(connection)
    if as_json:
        print_json([summary._asdict() for summary in summaries])
        return
    table = Table("model", "pipeline", "parameters", "size", "source", "loaded", box=None, pad_edge=False)
    table.columns[2].justify = table.columns[3].justify = "right"
    for summary in summaries:
        table.add_row(
            escape(summary.name),
            summary.pipeline,
            f"{summary.parameters:,}",
            megabytes(summary.bytes),
            escape(source_text(summary)),
            f"{summary.loaded_at:%Y-%m-%d %H:%M}",
        )
    print_table(table)


@app.command(epilog=examples("sql-diffusion show butterflies", "sql-diffusion show butterflies --json | jq .config"))
def show(model: Model, dsn: Dsn = "", as_json: Json = False) -> None:
    """Show a model: where it came from, its size, its configuration, the plan of its network."""
    with database.connect(dsn) as connection:
        database.extension_schema(connection)
        summary = models.find_model(connection, model)
        settings = models.settings(connection, model)
        plans = {component: models.plan(connection, model, component) for component in sorted(settings["components"])}
    if as_json:
        print_json({**summary._asdict(), **settings, "plan": plans.get(models.COMPONENT), "plans": plans})
        return

    facts = Table.grid(padding=(0, 2))
    for label, value in (
        ("model", summary.name),
        ("pipeline", summary.pipeline),
        ("parameters", f"{summary.parameters:,} ({megabytes(summary.bytes)})"),
        ("source", source_text(summary)),
        ("revision", summary.revision),
        ("sha256", summary.sha256),
        ("loaded", f"{summary.loaded_at:%Y-%m-%d %H:%M:%S %Z}"),
    ):
        if value is not None:
            facts.add_row(label, escape(value))
    print_table(facts)
    for title, content in (
        *((f"Network {component}", config) for component, config in sorted(settings["components"].items())),
        ("Scheduler", settings["scheduler"]),
        ("Defaults", settings["defaults"]),
    ):
        if content:
            out.print(f"\n[bold]{escape(title)}[/bold]")
            print_table(settings_table(content))
    for component, plan in plans.items():
        out.print(f"\n[bold]Plan of {escape(component)}[/bold]")
        table = Table("step", "operation", "parameters", "inputs", "channels", box=None, pad_edge=False)
        table.columns[0].justify = "right"
        for step in plan:
            channels = "" if step["in_channels"] is None else f"{step['in_channels']} → {step['out_channels']}"
            inputs = " ".join(map(str, step["inputs"]))
            table.add_row(str(step["step"]), step["operation"], step["key"] or "", inputs, channels)
        print_table(table)


@app.command(epilog=examples("sql-diffusion remove ddpm-butterflies-64"))
def remove(model: Model, dsn: Dsn = "") -> None:
    """Remove a model from the database."""
    with database.connect(dsn) as connection:
        database.extension_schema(connection)
        models.remove_model(connection, model)
    typer.echo(f"Removed {model}")


@app.command(
    epilog=examples(
        "sql-diffusion generate --seed 42 --steps 50 -o butterfly.png",
        "sql-diffusion generate --seed 1 --count 9 --grid -o butterflies.png",
        "sql-diffusion generate --seed 42 --animate butterfly.gif --scale 4",
        "sql-diffusion generate --seed 42 --ansi",
        "sql-diffusion generate --prompt 'a lighthouse at night' --negative rain --size 512x768 --model stable-diffusion-v1-4",
        "sql-diffusion generate --image lighthouse.png --prompt 'the same by day' --strength 0.6 --model stable-diffusion-v1-4",
        "sql-diffusion generate --image lighthouse.png --mask sky.png --prompt clouds --model stable-diffusion-inpainting",
    )
)
def generate(
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What to draw, for models that take a text.")
    ] = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative", metavar="TEXT", help="What the picture is to be unlike.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance", help="How closely to follow the prompt; 1 for no guidance.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A picture to begin with, which is changed, or made larger by a model for that."
        ),
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture that is white where the other is to be made anew.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far to go from that picture, above 0 and up to 1.")
    ] = None,
    noise_level: Annotated[
        int | None, typer.Option(help="How much noise is laid over a picture that is made larger.")
    ] = None,
    class_label: Annotated[
        int | None, typer.Option(help="The number of a class, from 0, for models that know some.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="In pixels: 512x768; the model's own, or the picture's, by default."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Which model; the bundled one by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", "-s", help="The same seed gives the same picture; drawn by lot by default.")
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="How many steps; the model's own default.")
    ] = None,
    timesteps: Annotated[
        str | None, typer.Option(metavar="T,T,...", help="The very timesteps, descending: 500,250,125,60.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="ddpm, ddim, euler, dpmsolver++ or another, or settings in JSON; the model's own by default."
        ),
    ] = None,
    eta: Annotated[float | None, typer.Option(help="How much noise DDIM adds: 0 none, 1 as much as DDPM.")] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="Which extension computes; NumPy's where it is there.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The PNG to write; MODEL-SEED.png by default.")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="How many pictures, of seeds that follow each other.")
    ] = 1,
    grid: Annotated[bool, typer.Option("--grid", help="Put them side by side into one file.")] = False,
    scale: Annotated[int, typer.Option(min=1, max=64, help="Enlarge by whole pixels.")] = 1,
    ansi: Annotated[
        bool, typer.Option("--ansi", help="Show the pictures in the terminal; write no file unless -o is given.")
    ] = False,
    animate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the steps as an animation: .gif, .png, .apng or .webp; a PNG of the last one only with -o.",
        ),
    ] = None,
    dsn: Dsn = "",
) -> None:
    """Generate pictures, and say in each PNG how it was made."""
    from . import pictures
    from .generate import (
        Pictures,
        Settings,
        ansi_lines,
        check_prompt,
        description,
        draw,
        is_grey,
        model_name,
        step_count,
        task_of,
        with_strength,
    )

    pictures.check_output(output, pictures.STILL)
    pictures.check_output(animate, pictures.MOVING)
    list_of_timesteps = parse_timesteps(timesteps)
    width, height = parse_size(size)
    for option, value in (("--negative", negative_prompt), ("--guidance", guidance_scale), ("--size", size)):
        if prompt is None and value is not None and not (image is not None and option == "--size"):
            raise Problem(f"{option} goes with a prompt", "Give one: --prompt TEXT", errors.USAGE)
    for option, given in (("--mask", mask), ("--strength", strength), ("--noise-level", noise_level)):
        if image is None and given is not None:
            raise Problem(f"{option} goes with a picture", "Give one: --image FILE", errors.USAGE)
    wanted = None if image is None or width is None or height is None else (width, height)
    first = secrets.randbelow(2**32) if seed is None else seed
    seeds = range(first, first + count)
    if not (first >= -(2**63) and seeds[-1] < 2**63):
        raise Problem(
            f"the seeds are {first} to {seeds[-1]}, expected integers from {-(2**63)} to {2**63 - 1}",
            "Give a smaller --seed or --count.",
            errors.USAGE,
        )
    with database.connect(dsn) as connection:
        database.extension_schema(connection)
        name = model_name(connection, model, prompt is not None)
        if image is None:
            check_prompt(connection, name, prompt)
        request = Settings(
            name,
            num_inference_steps,
            list_of_timesteps,
            scheduler,
            eta,
            prompt,
            negative_prompt,
            guidance_scale,
            *((height, width) if image is None else (None, None)),
            strength,
            noise_level,
            class_label,
        )
        start = None
        if image is not None:
            begun = pictures.read_image(image, "L" if is_grey(connection, name) else "RGB", wanted)
            white = None if mask is None else pictures.read_image(mask, "L", wanted)
            start = Pictures(task_of(connection, name, white is not None), begun, white)
            request = with_strength(connection, request, start)
        total = step_count(connection, request)
        keep = pictures.choose_frames(total) if animate else [total - 1]
        with step_progress() as progress:
            task = progress.add_task(f"Generating {name}", total=count * total)
            drawn = [
                draw(connection, each, backend and backend.value, request, keep, lambda: progress.advance(task), start)
                for each in seeds
            ]
        text = description(connection, request, drawn[-1])
        text |= {what: file.name for what, file in (("image", image), ("mask", mask)) if file is not None}
        shown = [line for each in drawn for line in ansi_lines(connection, each.samples[-1])] if ansi else []

    if shown:
        typer.echo("\n".join(shown), color=True)
    films = [[pictures.to_image(sample, scale) for sample in each.samples] for each in drawn]
    every = {**text, "seed": ",".join(map(str, seeds))}
    if output is not None or not (ansi or animate):
        output = output or Path(f"{name.replace('/', '-')}-{first}.png")
        if grid or count == 1:
            pictures.save_png(pictures.make_grid([film[-1] for film in films]), output, every)
            typer.echo(str(output))
        else:
            for each, film in zip(seeds, films, strict=True):
                numbered = output.with_name(f"{output.stem}-{each}{output.suffix}")
                pictures.save_png(film[-1], numbered, {**text, "seed": str(each)})
                typer.echo(str(numbered))
    if animate is not None:
        pictures.save_animation([pictures.make_grid(list(frame)) for frame in zip(*films, strict=True)], animate, every)
        typer.echo(str(animate))


@app.command(
    epilog=examples(
        """sql-diffusion run --query "select id, prompt, seed from wanted where picture is null" --update "update wanted set picture = %(png)s where id = %(id)s" """.strip(),
        "sql-diffusion run --query ... --update ... --workers 4 --batch 8 --limit 1000",
        "sql-diffusion run --jobs --workers 2 --wait",
        "sql-diffusion run --query ... --update ... --workers 16 --ray painters:6379",
    )
)
def run(
    query: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="What gives the rows: a column seed, prompt for a model that takes one; negative_prompt, class_label and "
            "model where there are such; all of them are there for the update.",
        ),
    ] = None,
    update: Annotated[
        str | None,
        typer.Option(
            metavar="SQL", help="What writes a picture back: %(png)s, and by their names the query's columns, %(id)s."
        ),
    ] = None,
    jobs: Annotated[
        bool, typer.Option("--jobs", help="The jobs that sql_diffusion.enqueue(...) has put into the queue.")
    ] = False,
    stay: Annotated[bool, typer.Option("--wait", help="Wait for more jobs, until somebody stops it.")] = False,
    lease: Annotated[
        str,
        typer.Option(
            metavar="INTERVAL",
            help="When others may claim the jobs of a worker that has died; one that lives extends it.",
        ),
    ] = "1 minute",
    workers: Annotated[int, typer.Option(min=1, max=1000, help="Processes, with a connection each.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are painted together and written at once.")] = 4,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Of rows that name none; the bundled one.")
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="Which extension computes; NumPy's where it is there.")
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="How many steps; the model's own default.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many rows at most.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="The workers live on the nodes of this Ray cluster, HOST:PORT or auto."),
    ] = None,
    models_from: Annotated[
        str | None,
        typer.Option(
            "--models-from",
            metavar="DSN",
            help="With --ray: the workers read the models from this server, a standby or another that has them.",
        ),
    ] = None,
    dsn: Dsn = "",
) -> None:
    """Paint the rows of a query, or the jobs of the queue, and write the pictures back.

    A row is painted and written in the transaction that holds it, so it can be stopped at any time, and the same command goes
    on where it was; several at once share the rows. Exits with 1 where rows could not be painted: they stay as they are. A job
    is claimed for a lease, and keeps the words of what went wrong.
    """
    from . import model_server
    from . import run as runner

    if jobs == (query is not None) or jobs == (update is not None):
        raise errors.Problem(
            "what to paint is --query together with --update, or --jobs",
            "sql-diffusion run --help shows both.",
            errors.USAGE,
        )
    if stay and not jobs:
        raise errors.Problem("--wait is for --jobs", None, errors.USAGE)
    if models_from is not None and ray is None:
        raise errors.Problem(
            "--models-from is for --ray: other workers paint in the server that has the rows", None, errors.USAGE
        )
    engine = None if backend is None else backend.value
    job = runner.Job(dsn, query, update or "", [], model, engine, num_inference_steps, lease, stay, models_from)
    with database.connect(dsn) as connection, ExitStack() as opened:
        models = None
        if models_from is not None:
            models = opened.enter_context(model_server.connected(models_from, connection))
        if models is None or jobs:
            database.extension_schema(connection)
        job = runner.prepare(connection, job, models or connection)
        total = None if stay else runner.count_rows(connection, job)
        if total is not None and limit is not None:
            total = min(total, limit)
        with bars(MofNCompleteColumn, RateColumn) as progress:
            task = progress.add_task("painting", total=total)
            outcome = runner.run(
                connection,
                job,
                workers,
                batch,
                limit,
                lambda count: progress.advance(task, count),
                lambda words: err.print(f"sql-diffusion: {words}", markup=False),
                ray,
                models,
            )
        # another connection: no server keeps an idle one as long as a run can take
        with database.connect(database.whole_dsn(connection)) as fresh:
            left = runner.count_rows(fresh, job)
    failed = f", {outcome.failed} could not be" if outcome.failed else ""
    kind = "job" if jobs else "row"
    typer.echo(
        f"Painted {outcome.painted} {kind if outcome.painted == 1 else kind + 's'}{failed}; the {'queue' if jobs else 'query'} gives {left} more"
    )
    if outcome.stopped:
        raise typer.Exit(errors.INTERRUPTED)
    if outcome.failed:
        raise typer.Exit(errors.CHECK_FAILED)


class RateColumn(ProgressColumn):
    """Pictures a minute."""

    def render(self, task: Task) -> Text:
        """12.3/min"""
        return Text("" if task.speed is None else f"{60 * task.speed:.1f}/min", style="progress.data.speed")


@app.command(
    epilog=examples(
        "sql-diffusion train --query 'select image from pictures' --name mine --size 32 --steps 5000",
        "sql-diffusion train --name mine --resume",
        "sql-diffusion train --query 'select png as image from sprites' --name sprites --from butterflies",
    )
)
def train(
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What to call the model.")],
    query: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="What gives the pictures: a column image, of PNG or JPEG files (bytea) or of arrays (channels, height, "
            "width) of values from 0 to 1; with a column caption for a model that takes prompts.",
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="A loaded model to begin with, instead of by lot.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, max=1024, help="Pixels, in width and height; 64 or what MODEL has.")
    ] = None,
    channels: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Channels of the network's levels; 32,64,128,128 for 64 pixels."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of the whole run; 10000.")] = None,
    autoencoder_steps: Annotated[
        int | None, typer.Option(min=1, help="With captions: those before, of the autoencoder; half as many.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Pictures in a step; 16.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--rate", min=0, help="Full learning rate; 1e-3, or 1e-4 with --from.")
    ] = None,
    ema_decay: Annotated[
        float | None, typer.Option("--ema", min=0, max=1, help="Decay of the averaged weights, the result; 0.999.")
    ] = None,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Learn from mirrored pictures too; not by default.")
    ] = None,
    held_out: Annotated[
        float | None, typer.Option(min=0, max=0.5, help="Share of the pictures to measure with, 64 at most; 0.05.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything that is by lot; 0.")] = None,
    snapshot_every: Annotated[int | None, typer.Option(min=1, help="Steps between snapshots; 500.")] = None,
    snapshot_count: Annotated[int | None, typer.Option(min=0, help="Pictures in a snapshot; 16.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the run is kept; NAME.training by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in that folder.")] = False,
    device: Annotated[Device, typer.Option(help="Where to compute; the best there is.")] = Device.auto,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a model of that name when it is done.")] = False,
    dsn: Dsn = "",
    as_json: Json = False,
) -> None:
    """Train a model on the pictures that a query gives, and load it.

    Needs torch, diffusers, transformers and accelerate: pip install 'sql_diffusion[train]'. A run can be stopped at any time,
    and resumed; the model appears at the end, whole or not at all.
    """
    given = {
        key: value
        for key, value in {
            "query": query,
            "source": source,
            "size": size,
            "channels": parse_channels(channels),
            "steps": steps,
            "autoencoder_steps": autoencoder_steps,
            "batch": batch,
            "learning_rate": learning_rate,
            "ema_decay": ema_decay,
            "flip": flip,
            "held_out": held_out,
            "seed": seed,
            "snapshot_every": snapshot_every,
            "snapshot_count": snapshot_count,
        }.items()
        if value is not None
    }
    if query is None and not resume:
        raise Problem("there is nothing to learn from", "Say what: --query 'select image from pictures'", errors.USAGE)
    folder = run_dir or Path(f"{name.replace('/', '-')}.training")
    with database.connect(dsn) as connection:
        database.extension_schema(connection)
        models.check_name(connection, name, replace)
        trainer = training_module()
        accelerator = trainer.accelerate(device.value)
        if resume:
            settings, data = trainer.go_on(folder, given)
        else:
            settings, data = trainer.begin(connection, folder, trainer.new_settings(connection, given))
        original = trainer.read_original(connection, settings, folder)
    if not as_json:
        typer.echo(
            f"Learning from {data.learned} pictures of {settings.size}x{settings.size}, "
            f"{data.held_out} held out; {settings.steps} steps, kept in {folder}"
        )

    def tell(told: Any) -> None:
        if not as_json:
            held = "" if told.held_out != told.held_out else f", of those held out {told.held_out:.4f}"
            left = f"{told.left / 60:.0f} min left" if told.left >= 60 else f"{told.left:.0f} s left"
            err.print(f"{told.part}, step {told.step} of {told.steps}: loss {told.loss:.4f}{held}; {left}")

    with step_progress() as progress:
        finished = trainer.train(folder, settings, data, original, accelerator, progress, tell)
    # another connection: no server keeps an idle one as long as a run can take
    with database.connect(dsn) as connection, byte_progress() as progress:
        loaded = trainer.load_trained(connection, finished, name, replace, progress)
        packed, _ = models.pack_model(connection, loaded.name, loaded.parameters, None)
    if as_json:
        print_json({**loaded._asdict(), "packed": packed})
        return
    typer.echo(f"Loaded {loaded.name}: {loaded.parameters:,} parameters, from {finished}")
    suggest_picture(loaded.name, data.captions[0] if loaded.takes_text and data.captions else None)


def training_module() -> Any:
    """The module that trains. Raises a Problem where what it needs is not installed."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it tells, as it is imported, what it can do without
    try:
        from . import train as module
    except ImportError as error:
        raise Problem(
            f"train needs torch, diffusers, transformers and accelerate, and {error.name} is not installed",
            "pip install 'sql_diffusion[train]'",
            errors.USAGE,
        ) from error
    return module


@app.command(
    epilog=examples("sql-diffusion verify butterflies", "sql-diffusion verify butterflies --backend sql --json")
)
def verify(
    model: Model,
    seed: Annotated[int, typer.Option(help="Of the random input.")] = 0,
    timestep: Annotated[int, typer.Option(min=0, help="The timestep to run at.")] = 500,
    backend: Annotated[
        Backend, typer.Option(help="Which extension computes; NumPy's where it is there.")
    ] = Backend.auto,
    dsn: Dsn = "",
    as_json: Json = False,
) -> None:
    """Run each network of a model beside diffusers, layer by layer, and print how far apart they are.

    Needs torch and diffusers here, of text encoders transformers: pip install torch diffusers transformers. Exits with 1 where a layer differs by more
    than 1e-4 of its largest value.
    """
    from .verify import TOLERANCE
    from .verify import verify as compare_layers

    with database.connect(dsn) as connection:
        database.extension_schema(connection)
        layers = compare_layers(connection, model, seed, timestep, None if backend is Backend.auto else backend.value)
    worst = max(layers, key=lambda layer: layer.relative if layer.relative == layer.relative else float("inf"))
    passed = all(layer.passed for layer in layers)
    if as_json:
        print_json([{**layer._asdict(), "relative": layer.relative, "passed": layer.passed} for layer in layers])
    else:
        table = Table(
            "network", "step", "operation", "layer", "largest value", "error", "relative", "", box=None, pad_edge=False
        )
        for column in (1, 4, 5, 6):
            table.columns[column].justify = "right"
        for layer in layers:
            table.add_row(
                layer.component,
                str(layer.step),
                layer.operation,
                layer.key,
                f"{layer.largest:.4g}",
                f"{layer.error:.1e}",
                f"{layer.relative:.1e}",
                "[green]ok[/green]" if layer.passed else "[red]differs[/red]",
            )
        print_table(table)
        typer.echo(
            f"{sum(layer.passed for layer in layers)} of {len(layers)} layers within {TOLERANCE:g}; "
            f"the worst is {worst.key}, {worst.relative:.1e} of its largest value"
        )
    if not passed:
        raise typer.Exit(errors.CHECK_FAILED)


@app.command(epilog=examples("sql-diffusion doctor", "sql-diffusion doctor --dsn service=pictures --json"))
def doctor(dsn: Dsn = "", as_json: Json = False) -> None:
    """Look at the database and this machine: what is there, what is missing, the command that mends it."""
    from .doctor import examine

    with database.connect(dsn) as connection:
        findings = examine(connection)
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        signs = {"ok": "[green]✓[/green]", "optional": "[yellow]○[/yellow]", "missing": "[red]✗[/red]"}
        table = Table.grid(padding=(0, 2))
        for finding in findings:
            mend = f"\n[bold]{escape(finding.mend)}[/bold]" if finding.mend else ""
            table.add_row(signs[finding.state], finding.check, escape(finding.detail) + mend)
        print_table(table)
    if any(finding.state == "missing" for finding in findings):
        raise typer.Exit(errors.CHECK_FAILED)


def parse_timesteps(text: str | None) -> list[int] | None:
    """'500,250,125,60' as numbers."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise Problem(
            f"--timesteps {text} is not a list of numbers", "Write it as 500,250,125,60.", errors.USAGE
        ) from None


def parse_channels(text: str | None) -> tuple[int, ...] | None:
    """'32,64,128' as numbers."""
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise Problem(f"--channels {text} is not a list of numbers", "Write it as 32,64,128.", errors.USAGE)
    return tuple(int(part) for part in text.split(","))


def parse_size(text: str | None) -> tuple[int | None, int | None]:
    """'512x768' as (512, 768), width first."""
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d{1,6})[x×](\d{1,6})", text)
    if match is None:
        raise Problem(f"--size {text} is not a width and a height", "Write it as 512x768.", errors.USAGE)
    return int(match[1]), int(match[2])


def byte_progress() -> Progress:
    """Bars that count bytes."""
    return bars(DownloadColumn, TransferSpeedColumn)


def step_progress() -> Progress:
    """A bar that counts steps."""
    return bars(MofNCompleteColumn)


def bars(*columns: type[ProgressColumn]) -> Progress:
    """Bars on the terminal only, gone when they are done; in a narrow one it is the bar that becomes shorter."""
    whole = Column(no_wrap=True)
    return Progress(
        TextColumn("{task.description}", table_column=whole),
        BarColumn(),
        *(column(table_column=whole) for column in columns),
        TimeRemainingColumn(table_column=whole),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def print_table(table: Table) -> None:
    """On a terminal as wide as that; into a pipe or file as wide as the table is, so that nothing is cut off."""
    with out.capture() as capture:
        out.print(table, soft_wrap=False)
    typer.echo("\n".join(line.rstrip() for line in capture.get().rstrip().splitlines()))


def settings_table(content: dict[str, Any]) -> Table:
    """A configuration, one setting a line, without diffusers' private ones."""
    table = Table.grid(padding=(0, 2))
    for key, value in sorted(content.items()):
        if not key.startswith("_"):
            table.add_row(f"  {escape(key)}", escape(json.dumps(value)))
    return table


def suggest_picture(model: str, prompt: str | None) -> None:
    """The command that paints with what is loaded now, as a shell reads it."""
    given = [] if prompt is None else ["--prompt", prompt]
    command = ["sql-diffusion", "generate", *given, "--model", model, "--seed", "42", "-o", "picture.png"]
    typer.echo(f"Next: {shlex.join(command)}")


def print_json(content: Any) -> None:
    """JSON, times in ISO 8601."""
    typer.echo(
        json.dumps(
            content, indent=2, default=lambda value: value.isoformat() if isinstance(value, datetime) else str(value)
        )
    )


def megabytes(count: int) -> str:
    """1,234,567 bytes are 1.2 MB."""
    return f"{count / 1e6:,.1f} MB"


def source_text(summary: models.Summary) -> str:
    """Where a model came from."""
    return "comes with the extension" if summary.bundled else summary.source or ""


def main() -> None:
    """Runs the command. What goes wrong becomes a sentence and an exit code, never a traceback."""
    try:
        app(prog_name="sql-diffusion")
    except Problem as problem:
        complain(problem)
    except psycopg.Error as error:
        complain(database.explain(error))
    except Exception as error:
        if is_interruption(error):
            complain(Problem("interrupted", exit_code=errors.INTERRUPTED))
        if os.environ.get("SQL_DIFFUSION_TRACEBACK"):
            raise
        complain(
            Problem(
                f"{type(error).__name__}: {error}",
                "This is a defect of sql-diffusion. Please report it with what SQL_DIFFUSION_TRACEBACK=1 prints.",
                70,
            )
        )


def is_interruption(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what an error came from: code in C that it strikes, such as NumPy's, may end with a SystemError of its own."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def complain(problem: Problem) -> None:
    """Prints the sentence and the next step, and ends the command."""
    err.print(f"sql-diffusion: {problem.message}", markup=False)
    if problem.hint:
        err.print(f"  {problem.hint}", markup=False)
    sys.exit(problem.exit_code)
