from onceproof_chaos.environment import asyncpg_url


def test_a_url_for_asyncpg_keeps_its_tls_under_libpqs_name():
    url = asyncpg_url("postgresql://me:secret@db.example:5433/shop?sslmode=require")
    assert url == "postgresql://me:secret@db.example:5433/shop?sslmode=require"


def test_the_driver_of_sqlalchemy_is_taken_off():
    assert asyncpg_url("postgresql+asyncpg://me@db/shop") == "postgresql://me@db/shop"
