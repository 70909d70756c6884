"""Keys open their tenant's things, and nothing else does."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ppo_jobs.database import Database
from ppo_jobs.errors import ApiKeyNotFound
from ppo_jobs.repository import tenants


def test_a_key_opens_its_own_tenant(database: Database, tenant: str, api_key: str) -> None:
    with database.write() as session:
        other = tenants.create_tenant(session, "other")
        other_key = tenants.create_api_key(session, other, name="k")
        for key, owner in ((api_key, tenant), (other_key, other)):
            principal = tenants.authenticate(session, key)
            assert principal is not None
            assert (principal.tenant_id, principal.key_id) == (owner, key.split("_")[1])


def test_no_other_key_opens_anything(database: Database, api_key: str) -> None:
    _, id, secret = api_key.split("_")
    wrong = [
        "", "ppo_", "ppo__", id, secret, f"ppo_{id}", f"ppo_{id}_", f"ppo_{id}_{secret}0", f"ppo_{id}_{secret[:-1]}",
        f"x{api_key}",
        f"ppo_{'0' * 16}_{secret}", f"PPO_{id}_{secret}", f"ppo_{id}\0_{secret}", "ppo_ü_ü", "ppo_\ud800_\ud800",
    ]  # fmt: skip
    with database.read() as session:
        assert [tenants.authenticate(session, key) for key in wrong] == [None] * len(wrong)


def test_a_revoked_key_opens_nothing(database: Database, tenant: str, api_key: str) -> None:
    with database.write() as session:
        [key] = tenants.list_api_keys(session, tenant)
        for _ in range(2):
            tenants.revoke_api_key(session, tenant, key.id)
        assert tenants.authenticate(session, api_key) is None
        assert tenants.list_api_keys(session, tenant)[0].revoked_at is not None


def test_a_tenant_cannot_revoke_anothers_key(database: Database, tenant: str, api_key: str) -> None:
    with database.write() as session:
        other = tenants.create_tenant(session, "other")
        with pytest.raises(ApiKeyNotFound):
            tenants.revoke_api_key(session, other, api_key.split("_")[1])
        assert tenants.authenticate(session, api_key) is not None


def test_the_secret_is_not_in_the_database(database: Database, api_key: str) -> None:
    secret = api_key.split("_")[2]
    assert len(secret) == 64  # 256 bits.
    with database.read() as session:
        rows = session.execute(text("SELECT * FROM api_keys")).all()
    assert secret not in str(rows)


def test_tenants_are_found_by_their_name_which_is_unique(database: Database, tenant: str) -> None:
    with database.read() as session:
        assert tenants.tenant_named(session, "tester") == tenant
        assert tenants.tenant_named(session, "nobody") is None
    with pytest.raises(IntegrityError), database.write() as session:
        tenants.create_tenant(session, "tester")
