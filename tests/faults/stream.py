"""A reader of one job's stream that hangs up again and again."""

import random
import threading
import time

import httpx2


class RestlessReader(threading.Thread):
    """Reads a job's events, cutting the connection after a few of them and going on behind the last one."""

    def __init__(self, http: httpx2.Client, job_id: str, random_cuts: random.Random) -> None:
        super().__init__(daemon=True)
        self._client = httpx2.Client(base_url=http.base_url, headers=http.headers, timeout=30, trust_env=False)
        self._path = f"/v1/jobs/{job_id}/stream"
        self._random = random_cuts
        self._ended = False
        self.sequence: list[int] = []
        self.cuts = 0

    def run(self) -> None:
        with self._client:
            while not self._ended:
                try:
                    self._read_some()
                except httpx2.HTTPError:
                    time.sleep(0.2)
                self.cuts += 1

    def _read_some(self) -> None:
        headers = {"Last-Event-ID": str(self.sequence[-1])} if self.sequence else {}
        left = self._random.randint(1, 60)
        with self._client.stream("GET", self._path, headers=headers) as answer:
            if answer.status_code == 204:
                self._ended = True
                return
            number: int | None = None
            for line in answer.iter_lines():
                field, _, value = line.partition(":")
                if field == "id":
                    number = int(value)
                elif field == "event" and value.strip() == "end":
                    self._ended = True
                elif not line and number is not None:
                    self.sequence.append(number)
                    number = None
                    left -= 1
                if self._ended or left == 0:
                    return
