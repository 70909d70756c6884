"""`python -m ppo_engine.envs.check '{"id": "CartPole-v1"}'`: tries an environment, in a process with a deadline.

The exit status is 0 where it can be trained on, 1 where it cannot.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pydantic import ValidationError

from ppo_engine.envs.check.findings import Finding, findings
from ppo_engine.spec import EnvSpec

MARKS = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try all that a training relies on, and tell what came of it."""
    parser = argparse.ArgumentParser(prog="ppo environments check", description=main.__doc__)
    parser.add_argument("env", help="the spec's `env` as JSON")
    parser.add_argument("--steps", type=int, default=4000, help="random steps to take")
    parser.add_argument("--deadline", type=float, default=120.0, help="seconds after which it is given up")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        env = EnvSpec.model_validate_json(options.env)
    except ValidationError as error:
        print("\n".join(f"env.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()), file=sys.stderr)
        return 2
    if options.here:
        return try_here(env, steps=options.steps)
    found: list[Finding] = []
    for finding in try_apart(options.env, steps=options.steps, deadline_seconds=options.deadline):
        found.append(finding)
        if not options.json:
            print(f"{MARKS[finding.verdict]} {finding.name}: {finding.text}", flush=True)
    usable = all(finding.verdict != "fault" for finding in found)
    if options.json:
        print(json.dumps({"id": env.id, "usable": usable, "findings": [asdict(finding) for finding in found]}))
    else:
        print(f"{env.id} {'can' if usable else 'cannot'} be trained on")
    return 0 if usable else 1


def try_apart(env: str, *, steps: int, deadline_seconds: float) -> Iterator[Finding]:
    """The findings of a process of its own, which is killed, with all that it started, when its time is up."""
    command = [sys.executable, "-P", "-m", "ppo_engine.envs.check", env, "--here", "--steps", str(steps)]
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    # What the environment prints goes where errors go.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env={"PYTHONHASHSEED": "0", **os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdout is not None
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            os.killpg(process.pid, signal.SIGKILL)

        clock = threading.Timer(deadline_seconds, expire)
        clock.start()
        last, ended = "registration", False
        try:
            for line in process.stdout:
                told = json.loads(line)
                if told is None:
                    ended = True
                    break
                finding = Finding(**told)
                last = finding.name
                yield finding
        finally:
            clock.cancel()
        if not ended and not expired.is_set():
            process.wait()
        if expired.is_set():
            yield Finding(last, "fault", f"after that it did not come back within {deadline_seconds:g} s")
        elif not ended:
            status = process.returncode
            how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            yield Finding(last, "fault", f"after that its process {how}")
        else:
            # Threads of the environment may keep it alive.
            os.killpg(process.pid, signal.SIGKILL)


def try_here(env: EnvSpec, *, steps: int) -> int:
    """One finding per line of what was stdout, and `null` behind the last."""
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for finding in findings(env, steps=steps):
        print(json.dumps(asdict(finding)), file=answer)
    print("null", file=answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
