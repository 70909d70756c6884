"""Tenants and their API keys, of which only a hash is kept."""

import hmac
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from ppo_jobs import tables
from ppo_jobs.clock import now, utc
from ppo_jobs.errors import ApiKeyNotFound
from ppo_jobs.ids import new_id

_keys = tables.api_keys
_NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request acts for."""

    tenant_id: str
    key_id: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    id: str
    name: str
    created_at: datetime
    revoked_at: datetime | None


def create_tenant(session: Session, name: str) -> str:
    """A new tenant's id; the name must be free."""
    tenant_id = new_id("tenant")
    session.execute(insert(tables.tenants).values(id=tenant_id, name=name, created_at=now()))
    return tenant_id


def tenant_named(session: Session, name: str) -> str | None:
    return session.execute(select(tables.tenants.c.id).where(tables.tenants.c.name == name)).scalar_one_or_none()


def create_api_key(session: Session, tenant_id: str, *, name: str) -> str:
    """A new key in plain text, which nobody can read again: `ppo_`, its id, `_`, 256 random bits in hexadecimal."""
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    session.execute(
        insert(_keys).values(id=key_id, tenant_id=tenant_id, name=name, secret_sha256=_hash(secret), created_at=now())
    )
    return f"ppo_{key_id}_{secret}"


def authenticate(session: Session, key: str) -> Principal | None:
    """Whom a key belongs to; None if it is malformed, unknown, wrong or revoked, all in the same time."""
    _, _, rest = key.partition("ppo_")
    key_id, _, secret = rest.partition("_")
    query = select(_keys.c.tenant_id, _keys.c.secret_sha256).where(_keys.c.id == key_id, _keys.c.revoked_at.is_(None))
    row = session.execute(query).one_or_none()
    matches = hmac.compare_digest(_hash(secret), _NO_HASH if row is None else row.secret_sha256)
    if row is None or not matches or not key.startswith("ppo_"):
        return None
    return Principal(row.tenant_id, key_id)


def valid_key_ids(session: Session, key_ids: Collection[str]) -> set[str]:
    """Those of these keys that are not revoked."""
    query = select(_keys.c.id).where(_keys.c.id.in_(key_ids), _keys.c.revoked_at.is_(None))
    return set(session.execute(query).scalars())


def list_api_keys(session: Session, tenant_id: str) -> list[ApiKey]:
    """Oldest first, the revoked ones too."""
    query = select(_keys).where(_keys.c.tenant_id == tenant_id).order_by(_keys.c.created_at, _keys.c.id)
    return [ApiKey(row.id, row.name, utc(row.created_at), utc(row.revoked_at)) for row in session.execute(query)]


def revoke_api_key(session: Session, tenant_id: str, key_id: str) -> None:
    """From now on the key opens nothing; revoking it again changes nothing.

    Raises:
        ApiKeyNotFound: there is none, or it is another tenant's.
    """
    mine = (_keys.c.tenant_id == tenant_id, _keys.c.id == key_id)
    if session.execute(select(_keys.c.id).where(*mine)).one_or_none() is None:
        raise ApiKeyNotFound(key_id)
    session.execute(update(_keys).where(*mine, _keys.c.revoked_at.is_(None)).values(revoked_at=now()))


def _hash(secret: str) -> str:
    # A fast hash is right for a secret of 256 random bits: there is nothing to guess.
    return sha256(secret.encode("utf-8", "replace")).hexdigest()
