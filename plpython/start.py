"""The body of sql_diffusion_numpy.start(): imports the package from the sources that build.py puts in here."""
# plpy and GD are PL/Python's.
# ruff: noqa: F821
# mypy: disable-error-code="name-defined,no-untyped-def,operator,index,call-overload,attr-defined"

import hashlib
import importlib.abc
import importlib.util
import sys

PACKAGE = "sql_diffusion_numpy"
VERSION = "@version@"
SOURCES = "@sources@"  # name of a module -> its source; a package's name ends in a dot


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the package's modules in SOURCES, and never in the file system."""

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] != PACKAGE:
            return None
        if name + "." in SOURCES:
            return importlib.util.spec_from_loader(name, self, is_package=True)
        if name in SOURCES:
            return importlib.util.spec_from_loader(name, self)
        raise ModuleNotFoundError(f"{name} is not part of the extension", name=name)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        name = module.__name__
        source = SOURCES[name + "."] if name + "." in SOURCES else SOURCES[name]
        exec(compile(source, f"<{name}>", "exec"), module.__dict__)


def load():
    sys.meta_path.insert(0, Loader())
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    threads = importlib.import_module(PACKAGE + ".threads")
    try:
        threads.load_numpy()
    except ImportError as error:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        plpy.error(
            f"NumPy cannot be loaded by the server's Python {version}: {error}",
            hint="On Debian and Ubuntu: apt-get install python3-numpy libopenblas0-pthread; then connect again.",
            sqlstate="58P01",
        )
    importlib.import_module(PACKAGE + ".doctor").VERSION = VERSION
    digest = hashlib.sha256("\0".join(SOURCES[name] for name in sorted(SOURCES)).encode()).hexdigest()
    importlib.import_module(PACKAGE + ".parameters").SOURCE_DIGEST = digest
    GD[PACKAGE] = importlib.import_module(PACKAGE + ".functions")
    GD["sql_diffusion_torch"] = importlib.import_module(PACKAGE + ".torch_functions")


load()
