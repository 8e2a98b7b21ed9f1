"""What an invariant is, and how a command line gives it."""

from decimal import Decimal

import pytest

from onceproof_chaos.prove.invariants import Invariant, _count, parse


def test_named_and_unnamed_invariants():
    assert parse(["once=SELECT a = b FROM t", "select 1", "c = WITH x AS (SELECT 1) SELECT 2"]) == (
        Invariant("once", "SELECT a = b FROM t"),
        Invariant("invariant 2", "select 1"),
        Invariant("c", "WITH x AS (SELECT 1) SELECT 2"),
    )


def test_a_file_holds_several_each_below_its_name(tmp_path):
    (tmp_path / "two.sql").write_text(
        "-- about both\n-- name: first\nSELECT 1;\n\n-- name: second\n-- a comment\nSELECT 2\n"
    )
    first, second = parse(["@two.sql"], tmp_path)
    assert first == Invariant("first", "SELECT 1")
    assert second.name == "second"
    assert second.sql.endswith("SELECT 2")


def test_a_file_without_names_is_one_invariant_called_like_the_file(tmp_path):
    (tmp_path / "once.sql").write_text("SELECT 1;\n")
    assert parse([f"@{tmp_path}/once.sql"]) == (Invariant("once", "SELECT 1"),)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        ([], "an invariant is needed"),
        (["@no/such.sql"], "cannot be read"),
        (["a=SELECT 1", "a=SELECT 2"], "two invariants are called a"),
        ([""], "empty"),
        # Postgres answers nothing to these, so they would hold whatever happened.
        (["-- SELECT 1"], "empty"),
        (["/* SELECT 1 */ ;"], "empty"),
    ],
)
def test_what_is_wrong_is_said(texts, reason):
    with pytest.raises(ValueError, match=reason):
        parse(texts)


def test_a_query_above_the_first_name_of_a_file_is_not_left_out(tmp_path):
    (tmp_path / "two.sql").write_text("SELECT 1;\n-- name: second\nSELECT 2\n")
    with pytest.raises(ValueError, match=r"two\.sql, a query stands above the first line"):
        parse(["@two.sql"], tmp_path)


def test_a_name_may_stand_before_a_comment():
    assert parse(["once=-- of each\nSELECT 1"]) == (Invariant("once", "-- of each\nSELECT 1"),)


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([], 0),
        ([{"order_id": "a"}, {"order_id": "b"}], 2),
        ([{"count": 0}], 0),
        ([{"count": 7}], 7),
        ([{"violations": 3}], 3),
        # A violating row that happens to be a single number is a violation, also when it is zero.
        ([{"id": 0}], 1),
        ([{"count": None}], 1),
        ([{"count": False}], 1),
        ([{"count": 0, "sku": "x"}], 1),
        ([{"count": 0}, {"count": 0}], 2),
        # A sum of whole numbers is a Decimal.
        ([{"violations": Decimal(0)}], 0),
        ([{"violations": Decimal("2.5")}], 3),
        ([{"count": -1}], 1),
    ],
)
def test_rows_are_violations_and_only_a_column_of_that_name_counts_them(rows, count):
    assert _count("SELECT", rows) == count


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        # The one order that was lost: a group is a row, whatever number stands in it.
        ("SELECT count(d) FROM p LEFT JOIN d USING (k) GROUP BY p.k HAVING count(d) <> 1", 1),
        ("SELECT count(d) FROM p /* ( */ group\n by k", 1),
        ("SELECT count(*) FROM (SELECT k FROM d GROUP BY k HAVING count(*) <> 1) x", 0),
        ("WITH x AS (SELECT k FROM d GROUP BY (k), 2) SELECT count(*) FROM x", 0),
        ("SELECT count(*) FROM d WHERE k = 'group by' -- group by", 0),
    ],
)
def test_a_query_that_groups_its_rows_does_not_count(sql, count):
    assert _count(sql, [{"count": 0}]) == count
