"""Loads diffusion models from Hugging Face into PostgreSQL and generates pictures there.

The package is the command ``sql-diffusion``; the networks themselves run in the database, in the extension
``sql_diffusion``. One subject a module: checkpoint and hub find the files, tensors reads them, copying writes them
to the server, models keeps the tables, pictures makes the files that people look at, cli is the command line.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sql_diffusion")
except PackageNotFoundError:  # run from the source tree, not installed
    __version__ = "unknown"
