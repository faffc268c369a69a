"""The network of gnokit/ddpm-butterflies-64, 63 million parameters, with random weights, for the benchmarks."""

import subprocess
import sys
from pathlib import Path

import psycopg

CONFIG = {
    "sample_size": 64,
    "layers_per_block": 2,
    "block_out_channels": (64, 128, 256, 512),
    "down_block_types": ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
}
MULTIPLY_ADDS = 11.59e9  # of one pass, as its layers are defined

SAVE = """
import sys
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from butterflies import CONFIG
DDPMPipeline(UNet2DModel(**CONFIG), DDPMScheduler()).save_pretrained(sys.argv[1])
"""


def load(connection: psycopg.Connection, folder: Path) -> None:
    """Put the extensions and the network, as model "bench", into the database, and the checkpoint into the folder."""
    here = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", SAVE, folder], check=True, stderr=subprocess.DEVNULL, cwd=here)
    connection.execute("create extension if not exists sql_diffusion_numpy cascade")
    scripts = str(Path(__file__).parent.parent / "scripts")
    command = [sys.executable, "-m", "sql_diffusion", "load", str(folder), "--name", "bench", "--replace"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=scripts)
