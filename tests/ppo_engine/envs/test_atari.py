from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import pytest
from ale_py import roms
from numpy.typing import NDArray

from ppo_engine.envs.area import AreaResize
from ppo_engine.envs.atari import AtariGame
from ppo_engine.envs.atari_games import MINIMAL_ACTIONS, SAVED_IN_PART
from ppo_engine.envs.catalogue import describe_environment, space_to_json
from ppo_engine.envs.native import NativeVectorEnvironment
from ppo_engine.envs.process import ProcessVectorEnvironment
from ppo_engine.envs.registry import episode_limit, make_environment, registered_environments
from ppo_engine.envs.sync import SyncVectorEnvironment
from ppo_engine.evaluate import evaluate
from ppo_engine.export import environment_manifest
from ppo_engine.presets import resolve
from ppo_engine.spec import AtariSpec, EnvSpec, InvalidSpec, TrainingSpec
from ppo_engine.trainer import Trainer
from tests.ppo_engine.envs.playing import played, random_actions, same
from tests.ppo_engine.envs.test_snapshots import through_json
from tests.ppo_engine.trainings import run, spec_of, state_bytes

BREAKOUT = "BreakoutNoFrameskip-v4"


def averaged(old: int, new: int) -> NDArray[np.float64]:
    """[new, old]: the share that each old row has in each new one, by definition."""
    width = old / new
    shares = [
        [max(0.0, min(i + 1, (j + 1) * width) - max(i, j * width)) / width for i in range(old)] for j in range(new)
    ]
    return np.array(shares)


class Reference:
    """An Atari game under the wrappers of Stable-Baselines3, frame by frame and in floats; lost lives are no resets."""

    def __init__(self, game: str, seed: int, *, noop_max: int = 30, skip: int = 4) -> None:
        ours, emulators = np.random.SeedSequence(seed).generate_state(2)
        self.draw = np.random.default_rng(int(ours))
        self.ale = ale_py.ALEInterface()
        self.ale.setInt("random_seed", int(np.int32(emulators)))
        self.ale.setFloat("repeat_action_probability", 0.0)
        self.ale.loadROM(roms.get_rom_path(game))
        self.actions, self.noop_max, self.skip = self.ale.getMinimalActionSet(), noop_max, skip
        self.down, self.across = averaged(210, 84), averaged(160, 84).T

    def frames(self, action: int) -> tuple[float, list[NDArray[np.uint8]]]:
        """What `skip` frames earn and show; fewer where the game ends."""
        reward, shown = 0.0, []
        for _ in range(self.skip):
            reward += self.ale.act(self.actions[action])
            shown.append(self.ale.getScreenGrayscale())
            if self.ale.game_over():
                break
        return reward, shown

    def seen(self, shown: list[NDArray[np.uint8]]) -> NDArray[np.float64]:
        # All but the last two frames are never looked at.
        return self.down @ np.maximum.reduce(shown[-2:] if len(shown) == self.skip else shown[-1:]) @ self.across

    def fires(self) -> bool:
        return len(self.actions) > 2 and self.actions[1] == ale_py.Action.FIRE

    def reset(self) -> NDArray[np.float64]:
        self.ale.reset_game()
        for _ in range(int(self.draw.integers(1, self.noop_max + 1))):
            self.ale.act(self.actions[0])
        shown = [self.ale.getScreenGrayscale()]
        if self.fires():
            self.frames(1)
            _, shown = self.frames(2)
        self.lives = self.ale.lives()
        return self.seen(shown if len(shown) == self.skip else shown * self.skip)

    def step(self, action: int) -> tuple[NDArray[np.float64], float, bool, bool]:
        reward, shown = self.frames(action)
        lost = 0 < self.ale.lives() < self.lives and not self.ale.game_over()
        if lost:
            for then in (0, 1, 2) if self.fires() else (0,):
                more, shown = self.frames(then)
                reward += more
        self.lives = self.ale.lives()
        return self.seen(shown), reward, self.ale.game_over(), lost


@pytest.mark.law("T27")
@pytest.mark.parametrize(("game", "steps"), [("Breakout", 420), ("Freeway", 60), ("SpaceInvaders", 200)])
def test_every_frame_reward_and_life_is_that_of_the_standard_wrappers(game: str, steps: int) -> None:
    ours = make_environment(EnvSpec(id=f"{game}NoFrameskip-v4"))
    theirs = Reference({"SpaceInvaders": "space_invaders"}.get(game, game.lower()), seed=3)
    np.testing.assert_allclose(ours.reset(seed=3)[0], theirs.reset(), atol=0.5001)
    draw, lives_lost, games = np.random.default_rng(0), 0, 0
    for _ in range(steps):
        action = int(draw.integers(len(theirs.actions)))
        observation, reward, terminated, _, _ = ours.step(action)
        expected, earned, over, lost = theirs.step(action)
        base = ours.unwrapped
        assert isinstance(base, AtariGame)
        assert (reward, terminated, base.life_lost) == (earned, over, lost)
        lives_lost, games = lives_lost + lost, games + over
        if over:
            np.testing.assert_allclose(ours.reset()[0], theirs.reset(), atol=0.5001)
        else:
            np.testing.assert_allclose(observation, expected, atol=0.5001)
    assert game == "Freeway" or (lives_lost >= 1 and (games >= 1 or game != "Breakout")), "nothing was tested"


def test_the_wrappers_of_stable_baselines3_show_and_earn_the_same() -> None:
    wrappers = pytest.importorskip("stable_baselines3.common.atari_wrappers")
    plain = ale_py.env.AtariEnv("breakout", frameskip=1, obs_type="grayscale", repeat_action_probability=0.0)
    theirs = wrappers.FireResetEnv(
        wrappers.EpisodicLifeEnv(wrappers.MaxAndSkipEnv(wrappers.NoopResetEnv(plain, 30), 4))
    )
    ours, resized = make_environment(EnvSpec(id=BREAKOUT)), AreaResize(210, 160, 84)
    assert np.array_equal(ours.reset(seed=9)[0], resized(theirs.reset(seed=9)[0]))
    lost = 0
    for action in np.random.default_rng(1).integers(0, 4, 300).tolist():
        observation, reward, terminated, _, _ = ours.step(action)
        expected, earned, ended, _, _ = theirs.step(action)
        base = ours.unwrapped
        assert isinstance(base, AtariGame)
        assert ended == (terminated or base.life_lost) and reward == earned
        if ended:
            expected, lost = theirs.reset()[0], lost + base.life_lost
            observation = ours.reset()[0] if terminated else observation
        assert np.array_equal(observation, resized(expected))
    assert lost >= 4


def test_an_image_is_made_smaller_by_averaging_what_each_pixel_covers() -> None:
    image = np.random.default_rng(0).integers(0, 256, (210, 160), np.uint8)
    for size in (36, 84, 96, 160):
        expected = averaged(210, size) @ image @ averaged(160, size).T
        np.testing.assert_allclose(AreaResize(210, 160, size)(image), expected, atol=0.5001)
    # Two rows of which the middle one of three gives half to each: (2*0 + 30)/3 and (30 + 2*90)/3.
    assert AreaResize(3, 2, 2)(np.array([[0, 0], [30, 30], [90, 90]], np.uint8)).tolist() == [[10, 10], [70, 70]]


def test_settings_change_what_is_seen() -> None:
    settings = AtariSpec(screen_size=60, grayscale=False, frame_skip=1, noop_max=0, fire_reset=False)
    env = make_environment(EnvSpec(id=BREAKOUT, atari=settings, frame_stack=2))
    observation = env.reset(seed=0)[0]
    assert observation.shape == env.observation_space.shape == (60, 60, 6)
    assert env.observation_space.contains(observation) and observation.max() > 100
    base = env.unwrapped
    assert isinstance(base, AtariGame) and base._ale.getEpisodeFrameNumber() == 0
    env.step(0)
    assert base._ale.getEpisodeFrameNumber() == 1


def test_lives_are_not_watched_where_they_are_to_end_nothing() -> None:
    settings = AtariSpec(terminal_on_life_loss=False)
    environment = SyncVectorEnvironment(EnvSpec(id=BREAKOUT, n_envs=1, atari=settings), [0])
    environment.reset()
    before = environment._envs[0].unwrapped._ale.lives()  # type: ignore[attr-defined]
    lost = [np.any(environment.step(np.full((1, 1), 1)).lives_lost) for _ in range(100)]
    assert environment._envs[0].unwrapped._ale.lives() < before  # type: ignore[attr-defined]
    assert not any(lost)


@pytest.mark.parametrize("env_id", [BREAKOUT, "ALE/Breakout-v5", "ALE/Pong-v5"])
def test_a_game_goes_on_from_a_state_to_the_bit(env_id: str) -> None:
    spec = EnvSpec(id=env_id, n_envs=2, frame_stack=3, atari=AtariSpec(screen_size=36))
    original, restored = SyncVectorEnvironment(spec, [1, 2]), SyncVectorEnvironment(spec, [8, 9])
    original.reset()
    played(original, random_actions(original.action_space, 2, 130))
    state = through_json(original.state())
    assert "env/0/actions" not in state
    actions = random_actions(original.action_space, 2, 130, seed=1)
    expected = played(original, actions)
    observations = restored.restore(state).copy()
    assert restored.resume.kind == "exact", restored.resume.reason
    assert same([observations], [np.stack([state[f"env/{index}/observation"] for index in range(2)])])
    again = restored.state()
    assert again.keys() == state.keys()
    assert all(np.array_equal(np.asarray(again[name]), np.asarray(state[name])) for name in state)
    assert same(played(restored, actions), expected)


def test_processes_play_as_sync_does_and_are_restored_as_well() -> None:
    spec = EnvSpec(id=BREAKOUT, n_envs=2, frame_stack=2, atari=AtariSpec(screen_size=36))
    here, there = SyncVectorEnvironment(spec, [1, 2]), ProcessVectorEnvironment(spec, [1, 2], workers=2)
    try:
        assert same([here.reset()], [there.reset()])
        actions = random_actions(here.action_space, 2, 60)
        expected = played(here, actions)
        assert same(played(there, actions), expected)
        assert any(step.any() for step in expected[6::7]), "no life was lost"
        there.restore(here.state())
        assert there.resume.kind == "exact"
        assert same(played(there, actions), played(here, actions))
    finally:
        there.close()


def test_a_game_that_ale_py_does_not_save_whole_says_so() -> None:
    spec = EnvSpec(id="ALE/Qbert-v5", n_envs=1)
    original, restored = SyncVectorEnvironment(spec, [1]), SyncVectorEnvironment(spec, [2])
    original.reset()
    played(original, random_actions(original.action_space, 1, 20))
    state = original.state()
    restored.restore(state)
    assert restored.resume.kind == "approximate" and "does not save all" in str(restored.resume.reason)
    assert restored.state()["env/0/length"] == 20
    description = describe_environment("ALE/Qbert-v5")
    assert (description.resume, describe_environment("ALE/Pong-v5").resume) == ("approximate", "exact")


def test_a_damaged_state_begins_a_new_game_and_says_so() -> None:
    spec = EnvSpec(id=BREAKOUT, n_envs=1)
    environment = SyncVectorEnvironment(spec, [1])
    environment.reset()
    state = {**environment.state(), "env/0/own/frame": np.zeros(3, np.uint8)}
    environment.restore(state)
    assert environment.resume.kind == "approximate" and "could not be loaded" in str(environment.resume.reason)


def test_a_game_is_cut_after_108000_frames_unless_the_spec_counts_steps() -> None:
    assert episode_limit(EnvSpec(id=BREAKOUT)) == 27_000
    assert episode_limit(EnvSpec(id=BREAKOUT, atari=AtariSpec(frame_skip=5))) == 21_600
    assert episode_limit(EnvSpec(id=BREAKOUT, max_episode_steps=7)) == 7
    environment = SyncVectorEnvironment(EnvSpec(id=BREAKOUT, n_envs=1, max_episode_steps=7), [0])
    environment.reset()
    assert [bool(environment.step(np.zeros((1, 1), np.int64)).truncated[0]) for _ in range(8)] == [
        *[False] * 6,
        True,
        False,
    ]


def test_the_catalogue_tells_of_a_game_what_the_game_tells() -> None:
    offered = {env_id: found for env_id, found in registered_environments().items() if found.family == "atari"}
    assert {found.registration.kwargs["game"] for found in offered.values()} == MINIMAL_ACTIONS.keys()
    assert MINIMAL_ACTIONS.keys() > SAVED_IN_PART
    for env_id in ("ALE/Pong-v5", "ALE/Adventure-v5", "FreewayNoFrameskip-v4"):
        made, told = make_environment(EnvSpec(id=env_id)), describe_environment(env_id)
        assert told.action_space == space_to_json(made.action_space)
        assert told.observation_space == space_to_json(made.observation_space)
        assert (told.observation_size, told.action_size, told.max_episode_steps) == (7056, made.action_space.n, 27_000)
    properties = describe_environment("ALE/Pong-v5").kwargs_schema["properties"]
    assert set(properties) == {"mode", "difficulty", "repeat_action_probability", "full_action_space"}


def test_arguments_reach_the_game() -> None:
    spec = EnvSpec(id="ALE/Pong-v5", kwargs={"full_action_space": True, "mode": 1, "difficulty": 2})
    made = make_environment(spec)
    assert made.action_space.n == 18  # type: ignore[attr-defined]


def test_sticky_actions_hold_the_one_before_with_their_probability() -> None:
    def frames(probability: float, actions: list[int]) -> list[NDArray[Any]]:
        settings = AtariSpec(frame_skip=1, noop_max=0, fire_reset=False)
        env = make_environment(
            EnvSpec(id="ALE/Breakout-v5", kwargs={"repeat_action_probability": probability}, atari=settings)
        )
        env.reset(seed=0)
        return [env.step(action)[0] for action in actions]

    to_the_right = frames(0.0, [2] * 12)
    # Never let go of, the action before the first one is to do nothing.
    assert same(frames(1.0, [2] * 12), frames(0.0, [0] * 12)) and not same(frames(0.0, [0] * 12), to_the_right)
    assert not same(frames(0.5, [2] * 12), to_the_right)
    held = [frames(0.25, [2, 0, 2, 0])[-1].tobytes() for _ in range(2)]
    assert held[0] == held[1], "the draws are the environment's own"


def test_settings_of_games_are_for_games_alone() -> None:
    document = {"env": {"id": "CartPole-v1", "atari": {"frame_skip": 2}}}
    with pytest.raises(InvalidSpec, match="/env/atari: CartPole-v1 is no Atari game"):
        resolve(TrainingSpec.model_validate(document))
    with pytest.raises(InvalidSpec, match="/env/atari: CartPole-v1 is no Atari game"):
        make_environment(EnvSpec(id="CartPole-v1", atari=AtariSpec()))


@pytest.mark.parametrize("preset", ["tuned", "default"])
def test_every_game_has_the_standard_settings_and_the_users_win(preset: Any) -> None:
    document = {"preset": preset, "env": {"id": "ALE/Pong-v5", "atari": {"frame_skip": 2}}}
    resolved = resolve(TrainingSpec.model_validate(document), describe_environment("ALE/Pong-v5"))
    assert resolved.env.frame_stack == 4 and resolved.env.n_envs == 8
    assert resolved.env.atari == AtariSpec(frame_skip=2)


@pytest.mark.law("T27")
def test_an_evaluation_is_of_whole_games_and_of_their_own_points() -> None:
    spec = EnvSpec(id=BREAKOUT, atari=AtariSpec(screen_size=36))
    seeds = np.random.SeedSequence(5)
    found = evaluate(lambda rows: np.full((len(rows), 1), 3), spec, n_episodes=1, seeds=seeds)
    (row,) = [np.random.SeedSequence(5, spawn_key=(0,)).generate_state(1, np.uint32)[0]]
    env = make_environment(spec)
    env.reset(seed=int(row))
    total, length, lost, ended = 0.0, 0, 0, False
    while not ended:
        _, reward, ended, _, _ = env.step(3)
        total, length = total + float(reward), length + 1
        lost += env.unwrapped.life_lost  # type: ignore[attr-defined]
    assert (found.returns, found.lengths) == ((total,), (length,))
    assert lost == 4


def test_a_bundle_says_how_its_game_was_shown() -> None:
    document = {"env": {"id": BREAKOUT, "atari": {"frame_skip": 3, "grayscale": False}}}
    spec = resolve(TrainingSpec.model_validate(document), describe_environment(BREAKOUT))
    told = EnvSpec.model_validate(environment_manifest(spec).model_dump())
    assert (told.frame_stack, told.atari) == (4, AtariSpec(frame_skip=3, grayscale=False))


def test_a_training_on_a_game_goes_on_exactly(tmp_path: Path) -> None:
    game = {"frame_stack": 2, "n_envs": 2, "atari": {"screen_size": 36}}
    settings = {"hidden_sizes": [4], "network": "mlp"}, {"n_steps": 48, "batch_size": 32, "n_epochs": 1}
    spec = spec_of(BREAKOUT, env=game, policy=settings[0], ppo=settings[1])
    trainer = Trainer(spec)
    assert trainer.runtime["backend"] == "torch"
    run(trainer, 2)
    trainer.save(tmp_path / "half")
    run(trainer, 2)
    resumed = Trainer.resume(trainer.spec, tmp_path / "half")
    assert resumed.resumed is not None and resumed.resumed.kind == "exact", resumed.resumed
    run(resumed, 2)
    assert state_bytes(resumed, tmp_path / "a") == state_bytes(trainer, tmp_path / "b")


def vector_of(game: str = BREAKOUT, *, n_envs: int = 3, frame_stack: int = 4, **settings: Any) -> EnvSpec:
    return EnvSpec(
        id=game, n_envs=n_envs, frame_stack=frame_stack, vectorization="native", atari=AtariSpec(noop_max=0, **settings)
    )


@pytest.mark.parametrize(
    ("game", "frame_stack", "settings"),
    [
        (BREAKOUT, 4, {}),
        (BREAKOUT, 1, {}),
        (BREAKOUT, 3, {"grayscale": False}),
        (BREAKOUT, 2, {"screen_size": 64, "frame_skip": 3}),
        (BREAKOUT, 2, {"frame_skip": 1}),
        # Its rewards are 5 and more, and it flickers.
        ("SpaceInvadersNoFrameskip-v4", 2, {}),
    ],
)
def test_the_vector_form_of_ale_shows_what_a_game_shows(game: str, frame_stack: int, settings: dict[str, Any]) -> None:
    """Over lost lives and the ends of games, but for halves; it presses FIRE otherwise, and here none does."""
    others = {"terminal_on_life_loss": False, "fire_reset": False, **settings}
    env = vector_of(game, n_envs=1, frame_stack=frame_stack, **others)
    native = NativeVectorEnvironment(env, [3])
    single = SyncVectorEnvironment(env.model_copy(update={"vectorization": "sync"}), [3])
    assert native.encoder.size == single.encoder.size and native.encoder.images == single.encoder.images
    assert native.action_space.sizes == single.action_space.sizes
    assert np.array_equal(native.reset(), single.reset())
    ends, best, actions = 0, 0.0, np.random.default_rng(0).integers(0, 4, (600, 1, 1))
    for action in actions:
        ours, theirs = native.step(action), single.step(action)
        for name in ("rewards", "terminated", "truncated", "valid", "lives_lost"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert_alike(ours.observations, theirs.observations)
        # Nothing is to be had behind the end of a game, whose last frames are shown otherwise.
        if ours.terminated.any():
            assert not np.array_equal(ours.final_observations, ours.observations)
        else:
            assert_alike(ours.final_observations, theirs.final_observations)
        ends, best = ends + int(ours.terminated.sum()), max(best, float(ours.rewards[0]))
    if game != BREAKOUT:
        assert best >= 5
    elif settings.get("frame_skip") != 1:
        assert ends >= 1 and best >= 1
    native.close(), single.close()


def assert_alike(ours: NDArray[Any], theirs: NDArray[Any]) -> None:
    """Equal, but for one pixel in a thousand that is off by 1."""
    off = np.abs(ours.astype(int) - theirs)
    assert off.max() <= 1 and off.sum() <= off.size / 1000


def test_the_vector_form_tells_of_lost_lives_and_the_game_goes_on() -> None:
    """Five lives: four are lost within each game, and the fifth ends it."""
    environment = NativeVectorEnvironment(vector_of(), [1, 2, 3])
    environment.reset()
    draw, lost, games = np.random.default_rng(0), np.zeros(3, int), 0
    for _ in range(900):
        step = environment.step(draw.integers(0, 4, (3, 1)))
        assert step.lives_lost is not None
        lost += step.lives_lost
        assert not (step.lives_lost & step.terminated).any()
        assert (lost[step.terminated] == 4).all()
        games += int(step.terminated.sum())
        lost[step.terminated] = 0
    environment.close()
    assert games >= 6


def test_episodes_of_the_vector_form_are_cut_after_the_steps_of_the_spec() -> None:
    environment = NativeVectorEnvironment(vector_of().model_copy(update={"max_episode_steps": 7}), [1, 2, 3])
    first = environment.reset().copy()
    for step in range(1, 22):
        seen = environment.step(np.full((3, 1), 2))
        assert seen.truncated.tolist() == [step % 7 == 0] * 3
        if step % 7 == 0:
            assert np.array_equal(seen.observations, first)
            assert not np.array_equal(seen.final_observations, first)
    environment.close()


def test_games_of_the_vector_form_begin_by_the_seed_and_each_in_its_own_way() -> None:
    def begun(seed: int) -> NDArray[Any]:
        environment = NativeVectorEnvironment(EnvSpec(id=BREAKOUT, n_envs=4, vectorization="native"), [seed] * 4)
        environment.reset()
        rows = environment.step(np.full((4, 1), 1)).observations.copy()
        environment.close()
        return rows

    assert np.array_equal(begun(5), begun(5)) and not np.array_equal(begun(5), begun(6))
    assert len({row.tobytes() for row in begun(5)}) > 1


def test_the_vector_form_trains_and_says_that_its_resume_is_approximate(tmp_path: Path) -> None:
    ppo = {"total_timesteps": 96, "n_steps": 8, "batch_size": 16, "n_epochs": 1}
    spec = spec_of(BREAKOUT, env={"n_envs": 4, "vectorization": "native"}, ppo=ppo)
    trainer = Trainer(spec)
    run(trainer, 2)
    trainer.save(tmp_path)
    trainer.close()
    resumed = Trainer.resume(spec, tmp_path)
    assert resumed.resumed is not None and resumed.resumed.kind == "approximate"
    assert resumed.runtime["vectorization"] == "native" and run(resumed, 1)
    resumed.close()


def test_the_vector_form_sets_no_switches() -> None:
    with pytest.raises(InvalidSpec, match="/env/kwargs/mode"):
        NativeVectorEnvironment(vector_of().model_copy(update={"kwargs": {"mode": 4}}), [1, 2, 3])
