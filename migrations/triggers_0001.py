"""The triggers of the first schema, for each database. They are history: a later change is a later migration."""

_TERMINAL = "('succeeded', 'failed', 'cancelled')"

_LEGAL = """(
    (OLD.status = 'queued' AND NEW.status IN ('running', 'cancelled', 'failed'))
    OR (OLD.status = 'running' AND NEW.status IN ('queued', 'paused', 'succeeded', 'failed', 'cancelled'))
    OR (OLD.status = 'paused' AND NEW.status IN ('queued', 'cancelled'))
)"""

_ENDED_AND_CHANGED = f"""OLD.status IN {_TERMINAL} AND (
    NEW.status <> OLD.status OR NEW.finished_at <> OLD.finished_at
    OR NEW.attempt <> OLD.attempt OR NEW.last_seq <> OLD.last_seq
)"""

_WENT_BACK = """NEW.last_seq < OLD.last_seq OR NEW.attempt < OLD.attempt OR NEW.updated_at < OLD.updated_at
    OR NEW.created_at <> OLD.created_at OR NEW.tenant_id <> OLD.tenant_id"""

_SKIPS = "NEW.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM events WHERE job_id = NEW.job_id)"

_HAS_JOB = "EXISTS (SELECT 1 FROM jobs WHERE id = OLD.job_id)"

_RULES = {
    "guard_job_insert": ("INSERT", "jobs", {"a job begins queued": "NEW.status <> 'queued'"}),
    "guard_job_update": (
        "UPDATE",
        "jobs",
        {
            "a job that has ended never changes": _ENDED_AND_CHANGED,
            "this status cannot follow that one": f"NEW.status <> OLD.status AND NOT {_LEGAL}",
            "the history of a job never goes back": _WENT_BACK,
        },
    ),
    "guard_job_delete": ("DELETE", "jobs", {"a job that has not ended stays": f"OLD.status NOT IN {_TERMINAL}"}),
    "guard_event_insert": ("INSERT", "events", {"the ledger has no gap": _SKIPS}),
    "guard_event_update": ("UPDATE", "events", {"the ledger is never rewritten": "1 = 1"}),
    "guard_event_delete": ("DELETE", "events", {"an event goes only with its job": _HAS_JOB}),
}


def _sqlite(name: str, operation: str, table: str, rules: dict[str, str]) -> list[str]:
    return [
        f"CREATE TRIGGER {name}_{number} BEFORE {operation} ON {table} WHEN {condition} "
        f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
        for number, (message, condition) in enumerate(rules.items(), 1)
    ]


def _postgresql(name: str, operation: str, table: str, rules: dict[str, str]) -> list[str]:
    checks = "\n".join(
        f"IF {condition} THEN RAISE EXCEPTION '{message}' USING ERRCODE = 'check_violation'; END IF;"
        for message, condition in rules.items()
    )
    row = "OLD" if operation == "DELETE" else "NEW"
    return [
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {checks} RETURN {row}; END $$",
        f"CREATE TRIGGER {name} BEFORE {operation} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()",
    ]


SQLITE = [statement for name, rule in _RULES.items() for statement in _sqlite(name, *rule)]
POSTGRESQL = [statement for name, rule in _RULES.items() for statement in _postgresql(name, *rule)]
FUNCTIONS = list(_RULES)
