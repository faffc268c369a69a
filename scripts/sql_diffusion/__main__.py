"""python -m sql_diffusion is the command sql-diffusion."""

from .cli import main

main()
