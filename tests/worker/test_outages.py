"""What a worker loses when its database cannot be written for longer than a lease: nothing."""

import threading
import time

import pytest

from ppo_jobs.artifacts import open_artifacts
from ppo_jobs.database import migrate, open_database
from ppo_jobs.errors import LeaseLost
from ppo_jobs.queue import celery_app
from ppo_jobs.repository.tenants import create_tenant
from ppo_jobs.settings import Settings
from ppo_jobs.states import JobStatus
from tests.environments import add_plugin
from tests.postgresql import own_postgresql
from tests.worker.workplace import Workplace, assert_ledger_is_whole, eventually, spec_of
from worker import lease as leases
from worker.lease import Lease
from worker.sweeper import Sweeper

LEASE_SECONDS = 2.0


def test_a_database_that_is_read_only_for_longer_than_a_lease_costs_no_attempt(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    with own_postgresql() as server:
        migrate(server.url)
        database = open_database(server.url, durable=False)
        with database.write() as session:
            tenant = create_tenant(session, "tester")
        short = settings.model_copy(
            update={"database_url": server.url, "lease_seconds": LEASE_SECONDS, "sweep_seconds": 0.2}
        )
        place = Workplace(short, database, tenant)
        sweeper = Sweeper(short, database, open_artifacts(short.artifacts_url), celery_app(short))
        stopped = threading.Event()

        def sweep() -> None:
            while not stopped.wait(short.sweep_seconds):
                sweeper.sweep()

        sweeping = threading.Thread(target=sweep)
        sweeping.start()
        try:
            job_id = place.accept(spec_of("test/Slow-v0", kwargs={"seconds_per_step": 0.002}, iterations=40))
            with place.running(place.claim()):
                eventually(place.reached(job_id, 2))
                server.administer("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
                time.sleep(3 * LEASE_SECONDS)
                server.administer("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
            job = place.job(job_id)
            assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
            assert_ledger_is_whole(place, job_id, 40)
        finally:
            stopped.set()
            sweeping.join()
            database.dispose()


def test_whatever_a_renewal_raises_the_lease_is_renewed_the_next_time(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.accept(spec_of())
    claim = place.claim()
    renew, calls = leases.claims.renew, []

    def failing(session, key, *, lease_seconds):
        calls.append(key)
        if len(calls) <= 2:
            raise ZeroDivisionError
        if len(calls) == 4:
            raise LeaseLost(*key)
        return renew(session, key, lease_seconds=lease_seconds)

    monkeypatch.setattr(leases.claims, "renew", failing)
    with Lease(place.database, claim, lease_seconds=0.5) as lease:
        eventually(lambda: lease.is_lost, seconds=20)
    assert len(calls) == 4
