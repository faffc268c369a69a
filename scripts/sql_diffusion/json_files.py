"""Reads the JSON files of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from .errors import Problem


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object; the error names the file."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Problem(f"{name} is not JSON: {error}", "Fetch it again, or mend it by hand.") from error
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror or error}", "Check its permissions.") from error
    if not isinstance(content, dict):
        raise Problem(f"{name} holds a JSON {type(content).__name__}, and an object was expected", "Fetch it again.")
    return content
