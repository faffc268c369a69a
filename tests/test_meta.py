"""META.json, the control files, the changelog and the README tell of the same things."""

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
    assert set(versions.values()) == {META["version"]}


def test_the_version_is_stated_in_no_other_place() -> None:
    """What else needs it reads it from a control file."""
    files = [ROOT / name for name in ("Makefile", "Dockerfile", "pyproject.toml")]
    files += [file for file in (ROOT / "scripts").rglob("*") if file.is_file() and file.suffix != ".pyc"]
    stated = re.compile(rf"(?<![\w.]){re.escape(META['version'])}(?![\w.])")
    assert [file.name for file in files if stated.search(file.read_text(encoding="utf-8"))] == []


def test_the_files_are_there() -> None:
    for provided in META["provides"].values():
        assert (ROOT / provided["file"]).is_file()
        assert provided["file"].endswith(".sql")  # `pgxn load` takes what is not SQL for no extension
        assert (ROOT / provided["docfile"]).is_file()


def test_the_changelog_names_the_version() -> None:
    assert f"\n## {META['version']} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_what_the_specification_requires() -> None:
    """https://pgxn.org/spec: these keys, and semantic versions."""
    required = {"name", "version", "abstract", "maintainer", "license", "provides", "meta-spec"}
    assert required <= set(META)
    assert META["meta-spec"]["version"] == "1.0.0"
    assert META["release_status"] in ("stable", "testing", "unstable")
    assert re.fullmatch(r"\d+\.\d+\.\d+", META["version"])
    for prerequisites in META["prereqs"]["runtime"].values():
        for version in prerequisites.values():
            assert re.fullmatch(r"\d+\.\d+\.\d+|0", version)  # 0: any


def test_a_stranger_finds_the_sources_and_where_to_report() -> None:
    for page in ("repository", "bugtracker"):
        assert META["resources"][page]["web"].startswith(META["resources"]["homepage"])


def test_the_readme_quotes_errors_as_they_are() -> None:
    """Every message of its table is one that the regression tests expect."""
    section = (
        (ROOT / "README.md").read_text(encoding="utf-8").split("\n## When something is wrong\n")[1].split("\n## ")[0]
    )
    messages = re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)
    expected = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "expected").glob("*.out"))
    assert messages
    assert [message for message in messages if f"ERROR:  {message}\n" not in expected] == []


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "doc").glob("*.md")):
        links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", document.read_text(encoding="utf-8"))
        for link in (first or second for first, second in links):
            assert link.startswith("https://") or (document.parent / link).exists(), f"{document.name}: {link}"
