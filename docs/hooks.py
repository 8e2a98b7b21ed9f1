"""Files outside of docs/ become part of the site, so that one link works on GitHub and in the site.

A link in docs/ says where a file is in the repository. What such links name outside of docs/ is listed
here with its place in the site, and links to it are turned to that place when the site is built. A link
to anything else is a warning of MkDocs, and the build is strict.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_PLACES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.txt",
    "README.md": "repository.md",
    "deploy/helm/onceproof/README.md": "chart.md",
    "deploy/helm/onceproof/ci/external.yaml": "external.yaml",
    "examples/email_sender/README.md": "examples/email-sender.md",
    "examples/stock_reservation/README.md": "examples/stock-reservation.md",
}
_ORIGINS = {place: origin for origin, place in _PLACES.items()}
_LINK = re.compile(r"\]\((?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add what is elsewhere in the repository."""
    root = Path(config.config_file_path).parent
    for origin, place in _PLACES.items():
        files.append(File.generated(config, place, abs_src_path=str(root / origin)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links from places in the repository to places in the site."""
    here = page.file.src_uri
    if here == _PLACES["README.md"]:
        page.meta["search"] = {"exclude": True}  # it says in short what the other pages say

    def turn(link: re.Match[str]) -> str:
        origin = _ORIGINS.get(here, f"docs/{here}")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link["target"]))
        place = _PLACES.get(target)
        if place is None and target.startswith("docs/"):
            place = target.removeprefix("docs/")
        if place is None:
            return link[0]
        path = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"]({path}{link['anchor'] or ''})"

    return _LINK.sub(turn, markdown)
