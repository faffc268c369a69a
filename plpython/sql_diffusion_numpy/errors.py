"""The one error that a wrong argument makes; boundary.py hands it to PostgreSQL with its hint and SQLSTATE."""

from __future__ import annotations

from typing import NoReturn


class Refused(Exception):
    """What sql_diffusion.fail raises in SQL."""

    def __init__(self, message: str, hint: str | None, sqlstate: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.sqlstate = sqlstate


def fail(message: str, hint: str | None = None, sqlstate: str = "22023") -> NoReturn:
    """Raise an error with this message, hint and SQLSTATE (22023, invalid parameter value, unless told otherwise)."""
    raise Refused(message, hint, sqlstate)
