"""Whether the server is set up to paint, and to be fast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import doctor as diagnosis
from .. import session
from ..boundary import boundary


@boundary
def check_painter(plpy: Any) -> bool:
    session.begin(plpy)
    return True


@boundary
def doctor(plpy: Any) -> Iterator[Any]:
    session.begin(plpy)
    yield from diagnosis.diagnose(plpy)
