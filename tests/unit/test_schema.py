"""Every installed component's history, as Alembic sees it and as the services read it off names."""

from __future__ import annotations

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from onceproof.postgres import component, components


@pytest.mark.parametrize("name", sorted(components()))
def test_histories_are_linear_and_the_head_is_the_last_file(name: str) -> None:
    wanted = component(name)
    config = Config()
    config.set_main_option("script_location", str(wanted.location))
    directory = ScriptDirectory.from_config(config)
    revisions = list(directory.walk_revisions())
    assert directory.get_heads() == [wanted.head()]
    assert len(directory.get_bases()) == 1
    assert not any(r.is_merge_point or r.is_branch_point for r in revisions)
    # `check` compares revisions as text: the order of the names must be the order of the history.
    names = [revision.revision for revision in reversed(revisions)]
    assert names == sorted(names)
    assert all(len(one) == len(names[0]) for one in names)
