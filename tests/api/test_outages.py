import httpx2

from ppo_jobs.database import migrate, open_database
from ppo_jobs.repository.tenants import create_api_key, create_tenant
from ppo_jobs.settings import Settings
from tests.api import deployment
from tests.api.conftest import serving, until
from tests.api.test_errors import CARTPOLE, assert_problem
from tests.postgresql import own_postgresql


def test_a_server_that_turns_read_only_asks_to_come_again_and_is_not_ready(settings: Settings) -> None:
    with own_postgresql() as server:
        migrate(server.url)
        database = open_database(server.url, durable=True)
        deployment.register(database)
        with database.write() as session:
            key = create_api_key(session, create_tenant(session, "tester"), name="test")
        database.dispose()
        with (
            serving(settings.model_copy(update={"database_url": server.url})) as url,
            httpx2.Client(base_url=url, trust_env=False, headers={"Authorization": f"Bearer {key}"}) as client,
        ):
            assert client.get("/readyz").status_code == 200
            server.administer("ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            until(lambda: client.get("/readyz").status_code == 503)
            assert client.get("/readyz").json()["checks"]["database"] == "read_only"
            for _ in range(3):
                answer = client.post("/v1/jobs", json={"env": CARTPOLE})
                assert_problem(answer, 503, "database_read_only")
                assert int(answer.headers["retry-after"]) > 0
            assert client.get("/v1/jobs").status_code == 200
            server.administer("ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()")
            until(lambda: client.get("/readyz").status_code == 200)
            assert client.post("/v1/jobs", json={"env": CARTPOLE}).status_code == 201
