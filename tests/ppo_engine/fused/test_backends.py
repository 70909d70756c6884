from pathlib import Path
from typing import Any

import pytest

from ppo_engine.errors import CheckpointMismatch
from ppo_engine.presets import resolve
from ppo_engine.presets.backends import choose_backend
from ppo_engine.spec import InvalidSpec, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.ppo_engine.trainings import run, spec_of


@pytest.mark.parametrize(
    ("sections", "backend", "reason"),
    [
        ({}, "fused", "compiled loops are faster for an MLP on the CPU"),
        ({"device": "cpu"}, "fused", "compiled loops are faster for an MLP on the CPU"),
        ({"device": "cuda"}, "torch", 'the fused backend does not know device = "cuda"'),
        ({"policy": {"hidden_sizes": [64, 512]}}, "fused", "compiled loops are faster for an MLP on the CPU"),
        (
            {"policy": {"hidden_sizes": [64, 513]}},
            "torch",
            "compiled loops gain nothing on layers of more than 512 units",
        ),
        ({"env": {"vectorization": "sync"}}, "fused", "compiled loops are faster for an MLP on the CPU"),
        ({"backend": "torch"}, "torch", "the spec asks for it"),
        ({"backend": "fused"}, "fused", "the spec asks for it"),
    ],
)
def test_the_backend_is_a_function_of_the_spec(sections: dict[str, Any], backend: str, reason: str) -> None:
    spec = resolve(spec_of(**sections))
    assert choose_backend(spec) == (backend, reason)
    assert choose_backend(TrainingSpec.model_validate_json(spec.model_dump_json())) == (backend, reason)


@pytest.mark.parametrize(("asked", "chosen"), [("auto", "fused"), ("torch", "torch"), ("fused", "fused")])
def test_the_runtime_says_which_backend_and_why(asked: str, chosen: str) -> None:
    spec = spec_of(backend=asked)
    trainer = Trainer(spec)
    assert (trainer.runtime["backend"], trainer.runtime["backend_reason"]) == choose_backend(spec)
    assert trainer.runtime["backend"] == chosen


def test_the_fused_backend_is_refused_on_cuda() -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec_of(backend="fused", device="cuda"))
    [fault] = caught.value.faults
    assert (fault.pointer, fault.message) == ("/backend", 'the fused backend does not know device = "cuda"')


def test_the_fingerprint_of_compiled_loops_has_the_versions_that_their_bits_depend_on() -> None:
    """numba and LLVM order the sums, and the matrix products are those of SciPy's BLAS."""
    fused, plain = (Trainer(spec_of(backend=backend)).runtime["versions"] for backend in ("fused", "torch"))
    assert isinstance(fused, dict) and isinstance(plain, dict)
    assert fused.keys() - plain.keys() == {"numba", "llvmlite", "scipy"}


@pytest.mark.parametrize(("before", "now"), [("torch", "fused"), ("fused", "torch"), ("auto", "torch")])
def test_a_checkpoint_of_another_backend_is_refused(before: str, now: str, tmp_path: Path) -> None:
    Trainer(spec_of(backend=before)).save(tmp_path)
    with pytest.raises(CheckpointMismatch, match=f"backend was {before}, is {now}"):
        Trainer.resume(spec_of(backend=now), tmp_path)


def test_a_checkpoint_of_a_time_when_auto_chose_torch_goes_on_approximately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("ppo_engine.components.choose_backend", lambda _: ("torch", "nothing else there was"))
        before.setattr("ppo_engine.trainer.choose_backend", lambda _: ("torch", "nothing else there was"))
        trainer = Trainer(spec_of())
        run(trainer, 2)
        trainer.save(tmp_path)
    resumed = Trainer.resume(spec_of(), tmp_path)
    assert resumed.resumed is not None and resumed.resumed.kind == "approximate"
    assert resumed.resumed.reason is not None and "backend was torch, is fused" in resumed.resumed.reason
    assert run(resumed)[-1].finished


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 3e-3},
        {"objective": "dual_clip", "kl_penalty": {"kind": "fixed"}, "learning_rate": {"kind": "kl_adaptive"}},
        {"objective": "kl_penalty", "kl_penalty": {"kind": "dual", "target": 1e-3}, "learning_rate": 3e-3},
    ],
    ids=["clip", "dual_clip", "kl_penalty"],
)
def test_every_iteration_of_a_training_is_the_same_from_the_same_state(
    env_id: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained by torch; the fused path makes each iteration again, from the checkpoint before it.

    Left alone, rounding leads the environments apart as soon as it moves one action.
    """
    chosen = "torch"
    for module in ("components", "trainer"):
        monkeypatch.setattr(f"ppo_engine.{module}.choose_backend", lambda _: (chosen, "the test says so"))
    normalized = {"observations": True, "rewards": True}
    spec = spec_of(env_id, normalize=normalized, ppo={"ent_coef": 0.01, "n_epochs": 4, **settings})
    trainer = Trainer(spec)
    for number in range(10):
        trainer.save(tmp_path / str(number))
        before = trainer._components.policy.flat.clone()
        chosen = "fused"
        again = Trainer.resume(spec, tmp_path / str(number))
        chosen = "torch"
        [ours], [theirs] = run(again, 1), run(trainer, 1)
        assert ours.metrics is not None and theirs.metrics is not None and ours.metrics.keys() == theirs.metrics.keys()
        for name in ours.metrics.keys() - {"time/fps"}:
            assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-3, abs=1e-4), name
        adapted = again._components.backend.learner.scalars()
        assert adapted == pytest.approx(trainer._components.backend.learner.scalars(), rel=1e-3)
        step = trainer._components.policy.flat - before
        assert (again._components.policy.flat - before - step).norm() < 1e-3 * step.norm()
