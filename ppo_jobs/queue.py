"""The Celery app. A message only says that a queue has work; it may be lost, or come ten times."""

import logging
import socket
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

from ppo_jobs import fsatomic
from ppo_jobs.settings import Settings
from ppo_jobs.states import QueueName

logger = logging.getLogger(__name__)

TASK = "worker.work"
"""Takes no arguments: claim what is first in the queue, and go on until nothing is left."""


def celery_app(settings: Settings) -> Celery:
    """An app on the broker of the settings; who runs a worker registers the task `TASK` with it."""
    app = Celery("ppo", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        # The row is the truth. With late acknowledgement this pair of Celery and kombu dies when Redis restarts.
        task_acks_late=False,
        task_reject_on_worker_lost=False,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        # The anonymous exchange needs no binding, so that a message finds its queue before any worker has started.
        task_queues=[Queue(queue, Exchange(""), routing_key=queue) for queue in map(str, QueueName)],
        task_default_queue=str(QueueName.CPU),
        task_default_exchange="",
        task_create_missing_queues=False,
        task_publish_retry=True,
        task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.1, "interval_max": 0.1},
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_soft_shutdown_timeout=30.0,
        worker_send_task_events=False,
        broker_connection_timeout=2.0,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=_transport_options(settings.broker_url),
        enable_utc=True,
    )
    return app


def publish(app: Celery, queue: QueueName) -> bool:
    """Wakes a worker of the queue. A failure is logged, not raised: the sweeper publishes again.

    Returns: whether the broker took the message.
    """
    try:
        app.send_task(TASK, queue=str(queue))
    except Exception as error:  # Whatever a broker's client may raise: the job is safe in its row.
        logger.warning("queue %s was not woken; its workers look for jobs by themselves: %s", queue, error)
        return False
    return True


def broker_answers(app: Celery) -> bool:
    """Whether the broker can be reached now."""
    try:
        with app.connection_for_write(connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            with connection.channel():
                return True
    except Exception:  # As above: any failure means no.
        return False


def _transport_options(broker_url: str) -> dict[str, Any]:
    if broker_url.startswith(f"{fsatomic.SCHEME}:"):
        return {"polling_interval": fsatomic.Transport.polling_interval}
    # A host that vanished is noticed by keepalive within 25 seconds, a silent one by the health check.
    keepalive = {
        getattr(socket, name): seconds
        for name, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    }
    return {
        "visibility_timeout": 3600,
        "socket_timeout": 15,
        "socket_connect_timeout": 5,
        "health_check_interval": 10,
        "retry_on_timeout": True,
        "socket_keepalive": True,
        "socket_keepalive_options": keepalive,
    }
