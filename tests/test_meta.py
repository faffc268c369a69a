"""META.json, the control files and the Makefile tell the same story."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
META = json.loads((ROOT / "META.json").read_text(encoding="utf-8"))
CONTROLS = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / "extension").glob("*.control")}


def test_every_extension_is_provided_in_its_version() -> None:
    versions = {}
    for name, control in CONTROLS.items():
        found = re.search(r"^default_version = '(.+)'$", control, re.MULTILINE)
        assert found, name
        versions[name] = found.group(1)
    assert {name: provided["version"] for name, provided in META["provides"].items()} == versions
    assert META["version"] == versions[META["name"]]


def test_the_files_are_there() -> None:
    for provided in META["provides"].values():
        assert (ROOT / provided["file"]).is_file()
        assert (ROOT / provided["docfile"]).is_file()


def test_the_changelog_names_the_version() -> None:
    assert f"\n## {META['version']} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_the_specification_requires() -> None:
    """https://pgxn.org/spec: these keys, and semantic versions."""
    required = {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"}
    assert required <= set(META)
    assert META["meta-spec"]["version"] == "1.0.0"
    for version in (META["version"], *META["prereqs"]["runtime"]["requires"].values()):
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
