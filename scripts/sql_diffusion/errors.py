"""What the command says when it cannot go on: a sentence, the next step, and an exit code that scripts can read."""

# The exit codes of the command, as `sql-diffusion --help` lists them.
OK = 0
CHECK_FAILED = 1  # verify or doctor found something wrong
USAGE = 2  # the command line itself
DATABASE = 3  # no connection, the extension is missing, the server refused
CHECKPOINT = 4  # the checkpoint was not found, is incomplete, damaged or not supported
MODEL = 5  # no such model, or one of that name is there already
INTERRUPTED = 130  # Ctrl-C


class Problem(Exception):
    """An error that the user can do something about: what happened, what to do next, the exit code."""

    def __init__(self, message: str, hint: str | None = None, exit_code: int = CHECKPOINT) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


class Unable(Problem):
    """What keeps a worker from painting, whatever the row is: no row is blamed for it, and the run ends."""


class Lost(Unable):
    """The same, but it ends this worker alone."""


def enumerate_some(items: list[str], most: int = 5) -> str:
    """'a, b, c and 4 more': every message that could name hundreds of tensors names the first few."""
    if len(items) <= most:
        return ", ".join(items)
    return ", ".join(items[:most]) + f" and {len(items) - most} more"
