"""`python -m api`: serve the API of the deployment that the `PPO_…` variables describe."""

import argparse

from api.app import create_app
from api.server import serve
from ppo_jobs.entrance import enter, in_plain_words
from ppo_jobs.log_lines import configure_logging
from ppo_jobs.settings import load_settings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m api", description=__doc__)
    parser.add_argument("--host", help="address to listen on (PPO_HOST, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (PPO_PORT, 8000)")
    parser.add_argument(
        "--timeout-graceful-shutdown",
        type=int,
        default=5,
        metavar="SECONDS",
        help="how long downloads may go on after SIGTERM (5)",
    )
    arguments = parser.parse_args()
    given = {name: value for name in ("host", "port") if (value := getattr(arguments, name)) is not None}
    with in_plain_words():
        settings = load_settings(**given)
        enter(settings)
        configure_logging(settings)
        app = create_app(settings)
        serve(app, host=settings.host, port=settings.port, graceful_seconds=arguments.timeout_graceful_shutdown)


if __name__ == "__main__":
    main()
