"""Standard deviations that the network gives, and noise that is a function of features (gSDE)."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ppo_engine import deviations
from ppo_engine.components import build
from ppo_engine.distributions import ExploringGaussian, StateDependentGaussian
from ppo_engine.distributions.continuous import within_bounds
from ppo_engine.distributions.densities import gaussian, squashed_gaussian
from ppo_engine.envs.catalogue import describe_environment
from ppo_engine.presets import resolve
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import InvalidSpec
from ppo_engine.trainer import Trainer
from tests.environments import add_plugin
from tests.ppo_engine.trainings import run, spec_of

NONE = torch.zeros(0, dtype=torch.float64)
GRID = torch.linspace(-12, 12, 24_001, dtype=torch.float64).unsqueeze(1)
WIDTH = 24 / 24_000

# Of one action: mean 0.4, log-std -0.3; and mean 0.4 with features (0.5, -2) and log-stds (log 2, log 0.25).
BY_NETWORK = StateDependentGaussian(1), torch.tensor([[0.4, -0.3]], dtype=torch.float64), NONE
BY_FEATURES = (
    ExploringGaussian(1, features=2),
    torch.tensor([[0.4, 0.5, -2.0]], dtype=torch.float64),
    torch.tensor([[math.log(2)], [math.log(0.25)]], dtype=torch.float64),
)
VARIANCE = 0.5**2 * 2**2 + 2**2 * 0.25**2 + 1e-6


def surprise(distribution, outputs: Tensor, log_std: Tensor) -> tuple[float, float, float]:
    """The integrals of a density and of its surprise, and the entropy that is claimed."""
    log_density, entropies = distribution.log_probs_and_entropies(outputs.expand(len(GRID), -1), log_std, GRID)
    density = log_density.exp()
    return float(density.sum() * WIDTH), float(-(density * log_density).sum() * WIDTH), float(entropies[0])


@pytest.mark.parametrize(("distribution", "outputs", "log_std"), [BY_NETWORK, BY_FEATURES])
def test_densities_integrate_to_one_and_entropies_are_the_integrals_of_surprise(distribution, outputs, log_std) -> None:
    total, integral, entropy = surprise(distribution, outputs, log_std)
    assert total == pytest.approx(1.0, abs=1e-9)
    assert entropy == pytest.approx(integral, abs=1e-9)


@pytest.mark.parametrize(
    ("distribution", "outputs", "log_std"),
    [
        (StateDependentGaussian(1, squashed_gaussian), *BY_NETWORK[1:]),
        (ExploringGaussian(1, squashed_gaussian, features=2), *BY_FEATURES[1:]),
    ],
)
def test_squashed_densities_integrate_to_one_over_the_actions(distribution, outputs, log_std) -> None:
    edges = np.linspace(-1, 1, 400_001)
    u = torch.from_numpy(np.arctanh((edges[1:] + edges[:-1]) / 2)).unsqueeze(1)
    log_density, _ = distribution.log_probs_and_entropies(outputs.expand(len(u), -1), log_std, u)
    assert float(log_density.exp().sum() * 2 / 400_000) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("distribution", "outputs", "log_std"), [BY_NETWORK, BY_FEATURES])
def test_the_divergence_is_its_integral(distribution, outputs, log_std) -> None:
    other, other_std = outputs * 0.9 - 0.1, log_std * 0.7
    p, _ = distribution.log_probs_and_entropies(outputs.expand(len(GRID), -1), log_std, GRID)
    q, _ = distribution.log_probs_and_entropies(other.expand(len(GRID), -1), other_std, GRID)
    kl = distribution.kl(outputs, log_std, other, other_std)
    assert kl.item() == pytest.approx(float((p.exp() * (p - q)).sum() * WIDTH), rel=1e-7)
    assert distribution.kl(outputs, log_std, outputs, log_std).item() == 0.0


def test_each_row_has_the_standard_deviation_that_its_outputs_say() -> None:
    """Means 1 and -1, log-stds log 2 and log ½: log-densities of 3 and -1 are -½ - log 2 and log 2, less ½ log 2π."""
    outputs = torch.tensor([[1.0, math.log(2)], [-1.0, -math.log(2)]])
    log_probs, entropies = StateDependentGaussian(1).log_probs_and_entropies(
        outputs, NONE.float(), torch.tensor([[3.0], [-1.0]])
    )
    half = 0.5 * math.log(2 * math.pi)
    assert log_probs.tolist() == pytest.approx([-0.5 - math.log(2) - half, math.log(2) - half])
    assert entropies.tolist() == pytest.approx([math.log(2) + half + 0.5, -math.log(2) + half + 0.5])


@pytest.mark.parametrize(
    ("distribution", "outputs", "log_std", "deviation"),
    [(*BY_NETWORK, math.exp(-0.3)), (*BY_FEATURES, math.sqrt(VARIANCE))],
)
def test_samples_have_the_mean_and_the_deviation_of_the_density(distribution, outputs, log_std, deviation) -> None:
    """Over 100,000 draws of the noise; five standard errors are 5 σ/√100000 = 0.016 σ, and 0.011 σ of the deviation."""
    noise = torch.from_numpy(distribution.noise(np.random.default_rng(0), (100_000,))).double()
    samples = distribution.sample(outputs.expand(100_000, -1), log_std, noise)
    assert samples.shape == (100_000, 1)
    assert samples.mean().item() == pytest.approx(0.4, abs=0.016 * deviation)
    assert samples.std().item() == pytest.approx(deviation, rel=0.011)
    _, entropies = distribution.log_probs_and_entropies(outputs, log_std, samples[:1])
    assert entropies.item() == pytest.approx(math.log(deviation) + 0.5 * math.log(2 * math.pi * math.e))


def test_noise_of_features_is_one_linear_function_of_them() -> None:
    """Under one row of noise the displacement of twice a feature row, less that of none, is twice its displacement."""
    distribution = ExploringGaussian(3, features=4)
    noise = torch.from_numpy(distribution.noise(np.random.default_rng(0), (1,))).double()
    features = torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    log_std = torch.full((4, 3), -1.0, dtype=torch.float64)

    def displaced(row: Tensor) -> Tensor:
        return distribution.sample(torch.cat([torch.zeros(1, 3, dtype=torch.float64), row], dim=1), log_std, noise)

    none = displaced(0 * features)
    torch.testing.assert_close(displaced(2 * features) - none, 2 * (displaced(features) - none))
    assert 0 < none.abs().max() < 0.005  # five times the root of the least variance


def test_without_any_feature_the_density_is_finite_and_that_of_what_is_drawn() -> None:
    """The standard deviation is then 0.001."""
    distribution = ExploringGaussian(1, features=2)
    outputs, log_std = torch.zeros(50_000, 3), torch.zeros(2, 1)
    samples = distribution.sample(
        outputs, log_std, torch.from_numpy(distribution.noise(np.random.default_rng(0), (50_000,)))
    )
    log_probs, entropies = distribution.log_probs_and_entropies(outputs, log_std, samples)
    assert samples.std().item() == pytest.approx(1e-3, rel=0.02)
    assert entropies[0].item() == pytest.approx(math.log(1e-3) + 0.5 * math.log(2 * math.pi * math.e), abs=1e-5)
    assert -log_probs.mean().item() == pytest.approx(entropies[0].item(), abs=0.02)


@pytest.mark.law("T21")
def test_log_stds_stay_within_their_bounds_and_always_find_their_way_back() -> None:
    raw = torch.tensor([-1e4, -60.0, -20.0, 4.0, 60.0, 1e4], requires_grad=True)
    bounded = within_bounds(raw)
    assert ((bounded >= -20) & (bounded <= 4)).all()
    (slopes,) = torch.autograd.grad(bounded.sum(), raw)
    assert (slopes > 0).all()
    # 1 beyond where they are as they are: half of the 1 that is left to the bound; its slope ¼
    assert bounded[2:4].tolist() == [-19.5, 3.5]
    assert slopes[2:4].tolist() == [0.25, 0.25]


def test_log_stds_well_within_their_bounds_are_as_they_are_to_the_bit() -> None:
    raw = torch.linspace(-19, 3, 1001, requires_grad=True)
    bounded = within_bounds(raw)
    assert (bounded == raw).all()
    assert (torch.autograd.grad(bounded.sum(), raw)[0] == 1).all()
    far = np.float32([-1e4, -20, -19.5, -1, 0, 3.3, 50])
    np.testing.assert_allclose(deviations.within_bounds(far), within_bounds(torch.from_numpy(far)).numpy(), rtol=1e-6)


def collected(policy: dict) -> tuple[Trainer, Collector, Rollout]:
    """64 steps of Pendulums under a policy of 4 features."""
    trainer = Trainer(spec_of("Pendulum-v1", policy={"hidden_sizes": [4], **policy}, ppo={"n_steps": 64}))
    collector = trainer._components.backend.collector
    assert isinstance(collector, Collector)
    return trainer, collector, collector.collect()


def is_one_function(collector: Collector, steps: slice) -> bool:
    """Whether the noise of those steps of environment 0 is one affine function of the 4 features."""
    outputs = collector._outputs[steps, 0].double()
    displacements = collector._actions[steps, 0].double() - outputs[:, :1]
    inputs = torch.cat([outputs[:, 1:], torch.ones(len(outputs), 1)], dim=1)
    solution = torch.linalg.lstsq(inputs, displacements, driver="gelsd").solution
    return bool((inputs @ solution - displacements).abs().max() < 1e-4)


def test_noise_is_drawn_anew_every_so_many_steps_and_with_every_rollout() -> None:
    trainer, collector, _ = collected({"use_sde": True, "sde_sample_freq": 16})
    for first in (0, 16, 32, 48):
        assert is_one_function(collector, slice(first, first + 16))
    for first in (8, 24, 40):
        assert not is_one_function(collector, slice(first, first + 16))
    trainer.close()
    trainer, collector, _ = collected({"use_sde": True})
    assert is_one_function(collector, slice(0, 64))
    before, outputs = collector._actions.clone(), collector._outputs.clone()
    collector.collect()
    assert is_one_function(collector, slice(0, 64))
    collector._actions[:32], collector._outputs[:32] = before[:32], outputs[:32]
    assert not is_one_function(collector, slice(0, 64))
    trainer.close()


def test_noise_that_lasts_for_one_step_is_no_function_of_features() -> None:
    trainer, collector, _ = collected({"use_sde": True, "sde_sample_freq": 1})
    assert not is_one_function(collector, slice(0, 64))
    trainer.close()


@pytest.mark.parametrize("policy", [{"use_sde": True}, {"state_dependent_std": True}])
@pytest.mark.parametrize("squash_output", [False, True])
def test_log_probs_of_a_rollout_are_those_that_the_update_begins_with(policy: dict, squash_output: bool) -> None:
    """Minibatches of the acting batch's shape: equal to the bit (T2)."""
    trainer, _, rollout = collected({**policy, "squash_output": squash_output, "log_std_init": -1.0})
    for t in (0, 40):
        log_probs, _, values = trainer._components.policy.evaluate_actions(rollout.observations[t], rollout.actions[t])
        # Of all steps at once a sum may be taken in another order: the last bit of a number near 1.
        torch.testing.assert_close(log_probs.detach(), rollout.log_probs[t], rtol=0, atol=2e-6)
        assert (values == rollout.values[t]).all()
    trainer.close()


def test_features_learn_nothing_from_being_the_noises() -> None:
    """With the mean's weights at zero nothing of the log-prob reaches the hidden layers."""
    trainer = Trainer(spec_of("Pendulum-v1", policy={"use_sde": True}))
    policy = trainer._components.policy
    with torch.no_grad():
        policy.heads.actor_weight.zero_()
    observations = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    log_probs, entropies, _ = policy.evaluate_actions(observations, torch.ones(8, 1))
    (log_probs + entropies).sum().backward()
    gradients = policy.named_views(policy.gradients)
    assert (gradients["actor/0/weight"] == 0).all()
    assert (gradients["log_std"] != 0).all() and gradients["log_std"].shape == (16, 1)
    trainer.close()


def test_the_log_std_of_each_state_begins_at_log_std_init() -> None:
    trainer = Trainer(spec_of("Pendulum-v1", policy={"state_dependent_std": True, "log_std_init": -0.7}))
    collector = trainer._components.backend.collector
    assert isinstance(collector, Collector)
    collector.collect()
    assert collector._outputs[..., 1].mean().item() == pytest.approx(-0.7, abs=0.02)
    trainer.close()


@pytest.mark.law("T26")
@pytest.mark.parametrize("policy", [{"use_sde": True, "sde_sample_freq": 4}, {"state_dependent_std": True}])
def test_deterministic_actions_have_no_noise(policy: dict) -> None:
    trainer = Trainer(spec_of("Pendulum-v1", policy=policy))
    run(trainer, 1)
    seen = trainer._components.backend.collector.last_observations
    actions, again = trainer.act(seen), trainer.act(seen)
    outputs, _ = trainer._components.policy(torch.from_numpy(trainer._components._normalized(seen)))
    assert (actions == again).all() and (actions == outputs[:, :1].detach().numpy()).all()
    trainer.close()


def test_sampled_evaluation_draws_noise_anew_for_each_step() -> None:
    """SB3 issue 1767: noise that was drawn once for all of an evaluation."""
    trainer = Trainer(spec_of("Pendulum-v1", policy={"use_sde": True}))
    seen = trainer._components.backend.collector.last_observations.copy()
    act = trainer._components.sampler(np.random.default_rng(0))
    assert (act(seen) != act(seen)).all()
    trainer.close()


@pytest.mark.parametrize(
    ("env_id", "policy", "pointer"),
    [
        ("CartPole-v1", {"use_sde": True}, "/policy/use_sde"),
        ("CartPole-v1", {"state_dependent_std": True}, "/policy/state_dependent_std"),
        ("Pendulum-v1", {"use_sde": True, "state_dependent_std": True}, "/policy/state_dependent_std"),
        ("Pendulum-v1", {"sde_sample_freq": 4}, "/policy/sde_sample_freq"),
        ("Pendulum-v1", {"use_sde": True, "sde_sample_freq": 33}, "/policy/sde_sample_freq"),
    ],
)
def test_what_makes_no_sense_is_refused(env_id: str, policy: dict, pointer: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolve(spec_of(env_id, policy=policy), describe_environment(env_id))
    assert [fault.pointer for fault in caught.value.faults] == [pointer]


def test_where_arguments_change_the_action_space_the_fault_is_found_when_the_environment_is_made(monkeypatch) -> None:
    add_plugin(monkeypatch)
    with pytest.raises(InvalidSpec, match=r"/policy/use_sde: .* has no Box actions"):
        Trainer(spec_of("test/ManyFeatures-v0", env={"kwargs": {"features": 4}}, policy={"use_sde": True}))


@pytest.mark.parametrize("policy", [{"use_sde": True}, {"state_dependent_std": True}])
def test_compiled_loops_are_refused_with_a_reason(policy: dict) -> None:
    with pytest.raises(InvalidSpec, match="/backend: the fused backend does not know"):
        Trainer(spec_of("Pendulum-v1", policy=policy, backend="fused"))


def test_the_distributions_of_a_gaussian_are_plain_ones_with_the_moments_said() -> None:
    for distribution, outputs, log_std in (BY_NETWORK, BY_FEATURES):
        actions = torch.tensor([[0.9]], dtype=torch.float64)
        expected = gaussian(*distribution.moments(outputs, log_std), actions)
        assert distribution.log_probs_and_entropies(outputs, log_std, actions) == expected


@pytest.mark.parametrize("policy", [{}, {"squash_output": True}, {"memory": "gru", "sequence_length": 8}])
@pytest.mark.parametrize("env_id", ["Pendulum-v1", "test/DictAction-v0"])
def test_the_standard_deviation_that_a_network_gives_is_a_metric(
    env_id: str, policy: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    add_plugin(monkeypatch)
    by_network = {"state_dependent_std": True, "log_std_init": -2.0, **policy}
    [first] = run(Trainer(spec_of(env_id, policy=by_network)), 1)
    assert first.metrics is not None
    # The layer's weights are small: a state moves the deviation by some percent.
    assert first.metrics["train/std"] == pytest.approx(math.exp(-2), rel=0.05)


def test_the_metric_is_the_mean_over_columns_and_valid_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else the action is made of, log-stds are the last outputs."""
    add_plugin(monkeypatch)
    policy = build(resolve(spec_of("test/DictAction-v0", policy={"state_dependent_std": True})), 1).policy
    outputs = torch.full((3, 1, policy.distribution.outputs), 9.0)
    outputs[..., -policy.distribution.log_stds :] = torch.tensor([0.5, 0.25, 2.0]).log().view(3, 1, 1)
    valid = np.array([[True], [True], [False]])
    assert policy.metrics_of(outputs, valid) == {"train/std": pytest.approx((0.5 + 0.25) / 2)}


def test_a_small_deviation_that_stays_is_no_collapse() -> None:
    """The entropy of a normal number is negative below a deviation of 0.24, and no share of it means anything."""
    narrow = {"state_dependent_std": True, "log_std_init": -2.0}
    trainer = Trainer(spec_of("Pendulum-v1", policy=narrow, ppo={"learning_rate": 1e-6}))
    assert [finding.code for progress in run(trainer, 6) for finding in progress.findings] == []
