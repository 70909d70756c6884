"""Laws of evaluation: whole episodes, raw returns, an environment and seeds of its own."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ppo_engine import evaluate as evaluation_module
from ppo_engine.bundle import PolicyManifest, load_policy
from ppo_engine.envs.vector import VectorEnvironment, make_vector_environment, seed_of
from ppo_engine.errors import TrainingDiverged, UnknownEnvironment
from ppo_engine.evaluate import Evaluation, block_seeds, evaluate, evaluate_blocks, joined
from ppo_engine.random import environment_seeds, seed_sequence
from ppo_engine.spec import EnvSpec, EvaluationPlan, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin

CARTPOLE = EnvSpec(id="CartPole-v1")


def lean(observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Push to the side that the pole leans to: CartPole episodes of some 40 steps, of many lengths."""
    return (observations[:, [2]] > 0).astype(np.int64)


def fall(observations: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.zeros((len(observations), 1), dtype=np.int64)


def by_hand(act: Any, seeds: np.random.SeedSequence, seat: int, n_episodes: int) -> list[tuple[float, int]]:
    """(return, length) of the episodes of one environment, in the plainest possible loop."""
    child = np.random.SeedSequence(seeds.entropy, spawn_key=(*seeds.spawn_key, seat))
    environment = gymnasium.make("CartPole-v1")
    played: list[tuple[float, int]] = []
    observation, _ = environment.reset(seed=seed_of(child))
    while len(played) < n_episodes:
        total, length, ended = 0.0, 0, False
        while not ended:
            observation, reward, terminated, truncated, _ = environment.step(int(act(observation[None])[0, 0]))
            total, length, ended = total + float(reward), length + 1, terminated or truncated
        played.append((total, length))
        observation, _ = environment.reset()
    return played


@pytest.mark.parametrize("act", [fall, lean])
def test_episodes_are_those_of_a_plain_loop_assigned_up_front(act: Any) -> None:
    seeds = np.random.SeedSequence(5, spawn_key=(1, 2))
    evaluation = evaluate(act, CARTPOLE, n_episodes=7, seeds=seeds, n_envs=3)
    # environment 0 plays episodes 0, 3 and 6, environment 1 plays 1 and 4, environment 2 plays 2 and 5
    loops = [by_hand(act, seeds, seat, share) for seat, share in enumerate((3, 2, 2))]
    expected = [loops[episode % 3][episode // 3] for episode in range(7)]
    assert list(zip(evaluation.returns, evaluation.lengths, strict=True)) == expected


@pytest.mark.parametrize("act", [fall, lean])
def test_an_environment_with_a_batched_form_is_evaluated_in_it_to_the_same_bits(
    act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(env: EnvSpec, seeds: Any) -> VectorEnvironment:
        made.append(env.vectorization)
        return make_vector_environment(env, seeds)

    monkeypatch.setattr("ppo_engine.evaluate.make_vector_environment", make)
    batched = evaluate(act, CARTPOLE, n_episodes=7, seeds=np.random.SeedSequence(5), n_envs=3)
    monkeypatch.setattr("ppo_engine.evaluate.is_batched", lambda env: False)
    stepped = evaluate(act, CARTPOLE, n_episodes=7, seeds=np.random.SeedSequence(5), n_envs=3)
    assert made == ["batched", "sync"]
    assert batched == stepped


def test_stacked_observations_are_evaluated_where_only_the_plain_ones_are_batched() -> None:
    stacked = CARTPOLE.model_copy(update={"frame_stack": 2})
    evaluation = evaluate(fall, stacked, n_episodes=3, seeds=np.random.SeedSequence(5))
    assert evaluation == evaluate(fall, CARTPOLE, n_episodes=3, seeds=np.random.SeedSequence(5))


@pytest.mark.parametrize(("n_episodes", "n_envs"), [(1, 8), (8, 8), (9, 8), (3, 1)])
def test_exactly_the_asked_number_of_episodes_is_played(n_episodes: int, n_envs: int) -> None:
    evaluation = evaluate(fall, CARTPOLE, n_episodes=n_episodes, seeds=np.random.SeedSequence(0), n_envs=n_envs)
    assert len(evaluation.returns) == len(evaluation.lengths) == n_episodes
    assert all(8 <= length <= 11 for length in evaluation.lengths)  # a cart that is only pushed left falls in ~9 steps


def test_evaluating_leaves_the_seeds_as_they_were_and_repeats_itself() -> None:
    seeds = seed_sequence(3, "evaluation", 40)
    first = evaluate(lean, CARTPOLE, n_episodes=4, seeds=seeds)
    assert seeds.n_children_spawned == 0
    assert evaluate(lean, CARTPOLE, n_episodes=4, seeds=seeds) == first
    assert evaluate(lean, CARTPOLE, n_episodes=4, seeds=seed_sequence(3, "evaluation", 41)) != first


@pytest.mark.law("T26")
def test_no_environment_of_an_evaluation_is_seeded_as_one_of_training_or_of_its_evaluations() -> None:
    """Even where both have one seed: 1024 environments, and 200 evaluations of 8 while training."""
    for seed in (0, 7):
        drawn = {seed_of(sequence) for sequence in environment_seeds(seed, 1024)}
        within = [seed_sequence(seed, "evaluation", iteration, 0) for iteration in range(1, 201)]
        drawn |= {seed_of(child) for source in within for child in children(source, 8)}
        own = [seed_of(child) for block in range(40) for child in children(block_seeds(seed, block, 0), 8)]
        assert drawn.isdisjoint(own)
        assert len(set(own)) == len(own) == 320


@pytest.mark.law("T26")
def test_evaluations_while_training_play_neither_its_episodes_nor_those_of_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four evaluations of three environments, beside a training of four."""
    seeded: list[int] = []

    def make(env: EnvSpec, seeds: Any) -> VectorEnvironment:
        seeded.extend(seed_of(sequence) for sequence in seeds)
        return make_vector_environment(env, seeds)

    monkeypatch.setattr("ppo_engine.evaluate.make_vector_environment", make)
    with trained("CartPole-v1", evaluation={"every_timesteps": 128, "n_episodes": 3}) as (trainer, _):
        assert trainer.spec.seed is not None
        of_training = {seed_of(sequence) for sequence in environment_seeds(trainer.spec.seed, 4)}
    assert len(seeded) == len(set(seeded)) == 12 and of_training.isdisjoint(seeded)


def children(source: np.random.SeedSequence, count: int) -> list[np.random.SeedSequence]:
    return [np.random.SeedSequence(source.entropy, spawn_key=(*source.spawn_key, seat)) for seat in range(count)]


@pytest.mark.law("T26")
def test_the_policy_sees_raw_observations_and_the_score_is_the_raw_return() -> None:
    seen: list[NDArray[np.float32]] = []

    def watch(observations: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(observations.copy())
        return np.full((len(observations), 1), 9.0, dtype=np.float32)

    evaluation = evaluate(watch, EnvSpec(id="Pendulum-v1"), n_episodes=2, seeds=np.random.SeedSequence(0))
    rows = np.concatenate(seen)
    np.testing.assert_allclose(rows[:, 0] ** 2 + rows[:, 1] ** 2, 1.0, rtol=1e-5)  # cos² + sin²: nothing was scaled
    assert evaluation.lengths == (200, 200)
    # 200 steps that each cost at least 0.001 · 2² for the action, which the environment clipped from 9 to 2
    assert all(value <= -0.8 for value in evaluation.returns)


def test_the_time_limit_of_the_spec_holds() -> None:
    limited = CARTPOLE.model_copy(update={"max_episode_steps": 5})
    assert evaluate(fall, limited, n_episodes=3, seeds=np.random.SeedSequence(0)).lengths == (5, 5, 5)


def test_an_episode_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_module, "MAX_EPISODE_STEPS", 30)
    endless = EnvSpec(id="CliffWalking-v1")  # toy text, no time limit: moving up forever ends no episode
    assert evaluate(fall, endless, n_episodes=2, seeds=np.random.SeedSequence(0)).lengths == (30, 30)


def test_episodes_that_only_the_default_cuts_are_counted_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_module, "MAX_EPISODE_STEPS", 30)
    endless, seeds = EnvSpec(id="CliffWalking-v1"), np.random.SeedSequence(0)
    cut = evaluate(fall, endless, n_episodes=3, seeds=seeds)
    assert cut.n_cut == cut.metrics()["eval/n_cut"] == cut.as_json()["n_cut"] == 3
    assert joined([cut, cut]).n_cut == 6
    told = evaluation_module.in_words({"env_id": "CliffWalking-v1", **cut.as_json()})
    assert told.endswith("3 had no end within 30 steps and were cut there: set env.max_episode_steps")
    # A limit that somebody set is where episodes are to end.
    limited = endless.model_copy(update={"max_episode_steps": 30})
    for whole in (limited, CARTPOLE):
        evaluation = evaluate(fall, whole, n_episodes=3, seeds=seeds)
        assert evaluation.n_cut == 0 and "eval/n_cut" not in evaluation.metrics()


def test_the_default_cut_leaves_a_policy_that_walks_into_a_wall_within_seconds() -> None:
    """Ten such episodes were 20,000,000 steps at a cut of a million."""
    assert evaluation_module.MAX_EPISODE_STEPS * 10 <= 300_000


def test_whoever_looks_on_sees_the_steps_of_the_episodes_that_count_and_may_end_it() -> None:
    seen: list[tuple[int, int]] = []
    seeds = np.random.SeedSequence(5)
    whole = evaluate(
        fall,
        CARTPOLE,
        n_episodes=5,
        seeds=seeds,
        n_envs=2,
        meanwhile=lambda playing: seen.append((playing.episodes, playing.timesteps)),
    )
    assert seen[0] == (0, 0) and seen == sorted(seen)
    assert seen[-1][0] == 4 and sum(whole.lengths) - 2 <= seen[-1][1] < sum(whole.lengths)

    class Enough(Exception):
        pass

    def stop(playing: evaluation_module.Playing) -> None:
        if playing.episodes:
            raise Enough

    with pytest.raises(Enough):
        evaluate(fall, CARTPOLE, n_episodes=5, seeds=seeds, n_envs=2, meanwhile=stop)
    assert evaluate(fall, CARTPOLE, n_episodes=5, seeds=seeds, n_envs=2) == whole


def test_an_interrupted_command_says_so_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluation_module, "_evaluate_bundle", interrupt)
    assert evaluation_module.main([str(tmp_path), "--episodes", "7"]) == 130
    assert capsys.readouterr().err == "interrupted: the 7 episodes have not all been played\n"


def test_an_unknown_environment_is_named() -> None:
    with pytest.raises(UnknownEnvironment, match="Nowhere-v7"):
        evaluate(fall, EnvSpec(id="Nowhere-v7"), n_episodes=1, seeds=np.random.SeedSequence(0))


def test_a_return_that_is_not_finite_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation_module, "_play", lambda *_: [[(math.inf, 3)]])
    with pytest.raises(TrainingDiverged, match="CartPole-v1"):
        evaluate(fall, CARTPOLE, n_episodes=1, seeds=np.random.SeedSequence(0))


def test_statistics_by_hand() -> None:
    evaluation = Evaluation((1.0, 2.0, 3.0, 6.0), (10, 20, 30, 40))
    # mean 3, deviations -2 -1 0 3: variance 14/4 of the population; without 1 and 6 the mean is 2.5
    assert evaluation.mean_reward == 3.0
    assert evaluation.std_reward == pytest.approx(math.sqrt(3.5))
    assert evaluation.mean_length == 25.0
    told = json.loads(json.dumps(evaluation.as_json()))
    assert (told["n_episodes"], told["mean_reward"], told["iqm_reward"], told["mean_length"]) == (4, 3.0, 2.5, 25.0)
    assert told["ci95"][0] < 3.0 < told["ci95"][1]
    assert told["iqm_ci95"][0] < 2.5 < told["iqm_ci95"][1]
    assert (told["returns"], told["lengths"]) == ([1.0, 2.0, 3.0, 6.0], [10, 20, 30, 40])


def test_metrics_of_an_evaluation_name_the_same_numbers() -> None:
    evaluation = Evaluation((1.0, 2.0, 3.0, 6.0), (10, 20, 30, 40))
    metrics, told = evaluation.metrics(), evaluation.statistics()
    assert (metrics["eval/n_episodes"], metrics["eval/iqm_reward"], metrics["eval/mean_ep_length"]) == (4.0, 2.5, 25.0)
    assert [metrics["eval/mean_reward_low"], metrics["eval/mean_reward_high"]] == told["ci95"]
    assert [metrics["eval/iqm_reward_low"], metrics["eval/iqm_reward_high"]] == told["iqm_ci95"]


def test_one_episode_has_no_interval() -> None:
    single = Evaluation((5.0,), (3,))
    assert (single.statistics()["ci95"], single.statistics()["iqm_ci95"]) == (None, None)
    assert not [key for key in single.metrics() if key.endswith(("_low", "_high"))]


@pytest.mark.parametrize("deterministic", [True, False])
def test_blocks_can_be_played_from_any_one_on_and_come_out_alike(tmp_path: Path, deterministic: bool) -> None:
    write_cartpole_bundle(tmp_path)
    policy = load_policy(tmp_path)
    env = CARTPOLE.model_copy(update={"n_envs": 2})
    plan = EvaluationPlan(env=env, n_episodes=8, seed=5, deterministic=deterministic, block_episodes=3)
    blocks = list(evaluate_blocks(policy, plan))
    assert [len(block.returns) for block in blocks] == [3, 3, 2]
    assert list(evaluate_blocks(policy, plan, first=1)) == blocks[1:]
    assert len({block.returns for block in blocks}) == 3
    assert joined(blocks).returns == (*blocks[0].returns, *blocks[1].returns, *blocks[2].returns)
    assert joined(blocks).lengths[-2:] == blocks[2].lengths


def write_cartpole_bundle(directory: Path, *, env_id: str = "CartPole-v1") -> None:
    """A linear policy: logits (0, angle), which is `lean`."""
    weight = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], dtype=np.float32)
    save_file({"w": weight, "b": np.zeros(2, dtype=np.float32)}, directory / "policy.safetensors")
    manifest = {
        "env": {"id": env_id},
        "spec_sha256": "",
        "observation_size": 4,
        "observation_space": {},
        "action_space": {"kind": "discrete", "sizes": [2], "shape": [], "dtype": "int64"},
        "normalizer": None,
        "activation": "tanh",
        "layers": [{"weight": "w", "bias": "b"}],
    }
    (directory / "policy.json").write_text(PolicyManifest.model_validate(manifest).model_dump_json())


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ppo_engine.evaluate", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_evaluates_a_bundle_without_torch(tmp_path: Path) -> None:
    write_cartpole_bundle(tmp_path)
    answer = command(tmp_path, "--episodes", "5", "--json")
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout.splitlines()[-1])
    expected = evaluate(lean, CARTPOLE, n_episodes=5, seeds=block_seeds(0, 0, 0))
    assert result["returns"] == list(expected.returns)
    assert (result["env_id"], result["n_episodes"], result["deterministic"]) == ("CartPole-v1", 5, True)
    assert result["mean_reward"] == expected.mean_reward


def test_sampling_is_another_evaluation_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cartpole_bundle(tmp_path)
    assert evaluation_module.main([str(tmp_path), "--episodes", "5", "--stochastic", "--json"]) == 0
    sampled = json.loads(capsys.readouterr().out)
    assert evaluation_module.main([str(tmp_path), "--episodes", "5", "--json"]) == 0
    likeliest = json.loads(capsys.readouterr().out)
    assert (sampled["deterministic"], likeliest["deterministic"]) == (False, True)
    assert sampled["returns"] != likeliest["returns"]


def test_the_command_says_in_one_line_why_it_cannot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluation_module.main([str(tmp_path / "nothing")]) == 1
    write_cartpole_bundle(tmp_path, env_id="Nowhere-v7")
    assert evaluation_module.main([str(tmp_path)]) == 1
    absent, unknown = capsys.readouterr().err.splitlines()
    assert "policy.json" in absent
    assert "Nowhere-v7" in unknown


@pytest.mark.parametrize("arguments", [["--episodes", "0"], ["--n-envs", "0"], ["--seed", "-1"]])
def test_the_command_refuses_nonsense(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluation_module.main([str(tmp_path), *arguments])
    assert caught.value.code == 2


def test_evaluating_imports_no_torch() -> None:
    probe = "import sys, ppo_engine.evaluate; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


SHORT: dict[str, Any] = {
    "preset": "default",
    "ppo": {"total_timesteps": 512, "n_steps": 32, "batch_size": 64, "n_epochs": 2},
    "seed": 4,
}


@contextmanager
def trained(env_id: str, **sections: Any) -> Iterator[tuple[Trainer, list[Evaluation]]]:
    """A trainer at its end, with its evaluations; observations and rewards are normalised."""
    trainer = Trainer(TrainingSpec.model_validate({**SHORT, "env": {"id": env_id, "n_envs": 4}, **sections}))
    try:
        yield trainer, [progress.evaluation for progress in trainer.iterations() if progress.evaluation]
    finally:
        trainer.close()


def test_evaluating_during_training_changes_no_weight() -> None:
    with (
        trained("CartPole-v1") as (plain, none),
        trained("CartPole-v1", evaluation={"every_timesteps": 128, "n_episodes": 3}) as (evaluated, some),
    ):
        assert (len(none), len(some)) == (0, 4)  # 512 steps, one evaluation every 128
        assert plain.policy_hash() == evaluated.policy_hash()


@pytest.mark.law("T26")
def test_training_reports_raw_returns_where_it_learns_from_normalised_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    add_plugin(monkeypatch)
    evaluation = {"every_timesteps": 512, "n_episodes": 3}
    with trained("test/Ramp-v0", evaluation=evaluation) as (_, [at_the_end]):
        assert at_the_end.returns == (45.0, 45.0, 45.0)  # 0 + 1 + ... + 9


@pytest.mark.law("T26")
def test_a_deterministic_evaluation_is_of_the_likeliest_actions_and_a_sampled_one_another() -> None:
    evaluation = {"every_timesteps": 512, "n_episodes": 5}
    with (
        trained("CartPole-v1", evaluation=evaluation) as (trainer, [likeliest]),
        trained("CartPole-v1", evaluation={**evaluation, "deterministic": False}) as (_, [sampled]),
    ):
        seeds = seed_sequence(4, "evaluation", trainer.iteration, 0)
        assert likeliest == evaluate(trainer.act, CARTPOLE, n_episodes=5, seeds=seeds)
        assert likeliest.returns != sampled.returns


def test_a_bundle_scores_as_the_trainer_that_saved_it(tmp_path: Path) -> None:
    with trained("CartPole-v1") as (trainer, _):
        trainer.save(tmp_path / "checkpoint")
        seeds = np.random.SeedSequence(8)
        expected = evaluate(trainer.act, CARTPOLE, n_episodes=6, seeds=seeds)
        policy = load_policy(tmp_path / "checkpoint")
        assert evaluate(policy.act, CARTPOLE, n_episodes=6, seeds=seeds) == expected
