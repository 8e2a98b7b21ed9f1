import pytest

from onceproof.errors import ConfigurationError
from onceproof.variants import FIX_NAMES, HARDENED, NAIVE, parse_variant


def test_naive_has_no_fix_and_hardened_has_all():
    assert not any(NAIVE.as_dict().values())
    assert all(HARDENED.as_dict().values())
    assert parse_variant("naive") == NAIVE
    assert parse_variant("hardened") == HARDENED


@pytest.mark.parametrize("fix", FIX_NAMES)
def test_an_ablation_lacks_exactly_its_fix(fix):
    fixes = parse_variant(f"hardened-{fix}").as_dict()
    assert [name for name, on in fixes.items() if not on] == [fix]


@pytest.mark.parametrize("name", ["", "Hardened", "hardened-", "hardened-foo", "naive-inbox"])
def test_an_unknown_variant_says_what_there_is(name):
    with pytest.raises(ConfigurationError, match="hardened-inbox"):
        parse_variant(name)
