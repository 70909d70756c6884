"""One checkpoint, and how its files come to this machine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from ppo_client.download import download_file
from ppo_client.errors import NotFound
from ppo_client.evaluations import EvaluationHandle, budget, request_evaluation, wish_for
from ppo_client.paging import segment
from ppo_client.transport import Transport
from ppo_jobs.schemas import Checkpoint, CheckpointFile, CheckpointPatch

_STATE_PREFIX = "state."
"""Files that only resuming needs: optimiser, random streams, environments."""
_MANIFEST = "manifest.json"


class CheckpointHandle:
    """A checkpoint and what can be done with it. `data` is what was last read of it."""

    def __init__(self, transport: Transport, data: Checkpoint) -> None:
        self._transport = transport
        self._path = f"/v1/checkpoints/{segment(data.id)}"
        self.data = data

    def __repr__(self) -> str:
        return f"CheckpointHandle({self.id!r}, timesteps={self.data.timesteps})"

    @property
    def id(self) -> str:
        return self.data.id

    def bundle(self) -> list[CheckpointFile]:
        """The files that running the policy needs, the manifest last."""
        files = [file for file in self.data.files if not file.name.startswith(_STATE_PREFIX)]
        return sorted(files, key=lambda file: file.name == _MANIFEST)

    def download(
        self,
        directory: str | Path,
        *,
        names: Sequence[str] | None = None,
        on_bytes: Callable[[int], None] | None = None,
    ) -> list[Path]:
        """Bring files here, whole and checked against their sha256; what is already here is not sent again.

        An interrupted download goes on where it broke, in this call or in a later one.

        Args:
            directory: made if missing.
            names: which files; by default the policy bundle, without what only resuming needs.
            on_bytes: called with the number of bytes that have just become available.

        Returns: the paths, in the order of the files.

        Raises:
            NotFound: the checkpoint has no file of that name.
            DownloadFailed: a file's content is not what the checkpoint promises.
        """
        files = self.bundle() if names is None else [self._file(name) for name in names]
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        return [
            download_file(self._transport, f"{self._path}/files/{segment(file.name)}", file, folder, on_bytes=on_bytes)
            for file in files
        ]

    def evaluate(
        self,
        *,
        n_episodes: int = 100,
        seed: int | None = None,
        deterministic: bool = True,
        max_episode_steps: int | None = None,
        max_wall_seconds: float | None = None,
    ) -> EvaluationHandle:
        """Have the service play whole episodes with this policy; as `JobHandle.evaluate`."""
        given = {"checkpoint_id": self.id, "n_episodes": n_episodes, "seed": seed}
        more = {
            "deterministic": deterministic,
            "max_episode_steps": max_episode_steps,
            "budget": budget(max_wall_seconds),
        }
        return request_evaluation(self._transport, wish_for({**given, **more}))

    def pin(self, *, pinned: bool = True) -> Self:
        """Keep the checkpoint whatever the retention rules say, or no longer."""
        body = CheckpointPatch(pinned=pinned).model_dump(mode="json")
        self.data = self._transport.decode(Checkpoint, self._transport.send("PATCH", self._path, body=body))
        return self

    def delete(self) -> None:
        """Delete the checkpoint and its files.

        Raises:
            Conflict: a running job needs it.
        """
        self._transport.send("DELETE", self._path)

    def _file(self, name: str) -> CheckpointFile:
        for file in self.data.files:
            if file.name == name:
                return file
        raise NotFound(f"{self.id} has no file {name!r}.", status=404, code="file_not_found")
