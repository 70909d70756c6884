"""The networks of actor and critic, whose parameters lie in one flat buffer."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ppo_engine.distributions import (
    LOG_STD_BOUNDS,
    Bernoulli,
    DiagonalGaussian,
    Distribution,
    ExploringGaussian,
    MultiCategorical,
    Product,
    SquashedGaussian,
    StateDependentGaussian,
)
from ppo_engine.distributions.continuous import within_bounds
from ppo_engine.distributions.densities import gaussian, squashed_gaussian
from ppo_engine.envs.spaces import ActionSpace, Rows
from ppo_engine.images import Image, network_for, policy_faults, seen_as_images
from ppo_engine.networks.extractors import extractor_for
from ppo_engine.networks.heads import Heads
from ppo_engine.networks.parameters import flatten_parameters, initialize, places_of
from ppo_engine.networks.trunks import Trunks
from ppo_engine.recurrent.cells import memory_of
from ppo_engine.spec import InvalidSpec, PolicySpec, SpecFault
from ppo_engine.squashing import squashed


class Policy(nn.Module):
    """Actor and critic: observations → extractor → memory → trunks → heads.

    The extractor makes features of observations, for actor and critic alike; the memory, where there is one, makes
    features of these and of its state; the trunks go on from there, side by side or as one; the heads end in the
    parameters of the actions' distribution and in the value.

    A policy with memory acts by `step` and learns by `sequence`; `forward` and what builds on it know no state.

    `parameters()` are views of `flat`, in its order; `gradients` holds their gradients likewise. `places` says where
    the tensors lie that checkpoints name.
    """

    def __init__(
        self,
        spec: PolicySpec,
        observation_size: int,
        action_space: ActionSpace,
        *,
        images: tuple[Image, ...] = (),
        generator: np.random.Generator,
        action_masks: bool = False,
        device: torch.device | None = None,
    ) -> None:
        """Draws the initial weights from `generator`, the actor's before the critic's in each layer.

        Args:
            images: those that an observation holds.
            action_masks: whether it is said which choices are valid, each time that actions are asked for.
        Raises: InvalidSpec where the spec asks for squashed actions and the action space has no finite bounds, or for a
            network that the observations are not made for.
        """
        super().__init__()
        faults = policy_faults(spec, images)
        if faults:
            raise InvalidSpec(faults)
        network = network_for(spec.network, images)
        self.spec = spec = spec.model_copy(update={"network": network})
        self.images = seen_as_images(network, images)
        """Those that go through convolutions; the rest of an observation is numbers to the policy."""
        self.observation_size = observation_size
        self.action_space = action_space
        self.device = device or torch.device("cpu")
        # In this order their parameters lie in the flat buffer.
        self.extractor = extractor_for(spec, observation_size, self.images, self.device)
        self.memory = memory_of(spec.memory, self.extractor.outputs, spec.memory_size)
        self.hidden = Trunks(spec, self.memory.outputs, self.device)
        self.distribution = distribution_of(action_space, spec, features=self.hidden.outputs, action_masks=action_masks)
        layer = 0 if spec.share_features else len(spec.hidden_sizes)
        self.heads = Heads(layer, self.hidden.outputs, self.distribution, log_std_init=spec.log_std_init)
        self.flat, self.gradients = flatten_parameters(self, self.device)
        self.places = tuple(places_of(self))
        initialize(self, self.flat, generator)

    @property
    def trunks(self) -> int:
        """1 where actor and critic share their hidden layers, else 2."""
        return len(self.hidden.names)

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the action head [B, outputs] and values [B] of observations [B, D], normalised but for images."""
        self._require_no_memory()
        return self.readout(self.features(observations))

    def step(self, observations: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [B, outputs], values [B] and the next state [B, M] of normalised observations [B, D] and a state.

        The state [B, M] is zero where an episode starts, or `starts` [B] says where it is to be zeroed first; without a
        memory, M is 0.
        """
        return self._recall(self.features(observations), state, starts)

    def sequence(self, observations: Tensor, state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [L, S, outputs] and values [L, S] of L steps, as stepping would give them.

        Args:
            observations: [L, S, D], normalised.
            state: [S, M] before the first step; no gradient goes back beyond it.
            starts: [L, S] bool, where the state is zeroed first.
        """
        steps, sequences = starts.shape
        features = self.features(observations.flatten(0, 1))
        features, _ = self.memory(features.view(steps, sequences, -1), state, starts)
        outputs, values = self.readout(features.flatten(0, 1))
        return outputs.view(steps, sequences, -1), values.view(steps, sequences)

    def _recall(self, features: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        at_step = None if starts is None else starts.unsqueeze(0)
        remembered, after = self.memory(features.unsqueeze(0), state, at_step)
        return *self.readout(remembered.squeeze(0)), after

    def features(self, observations: Tensor) -> Tensor:
        """What the extractor makes of normalised observations [B, D]: [B, F]."""
        features: Tensor = self.extractor(observations)
        return features

    def readout(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs of the action head [B, outputs] and values [B] of features [B, F]."""
        actor_features, critic_features = self.hidden(features)
        outputs, values = self.heads(actor_features, critic_features)
        return outputs, values

    @property
    def log_std(self) -> Tensor:
        """Of the distribution's `log_std_shape`; empty where it has none."""
        return self.heads.log_std

    def values(self, observations: Tensor) -> Tensor:
        """V of normalised observations [B, D]: [B]."""
        values: Tensor = self.forward(observations)[1]
        return values

    def act(self, observations: Tensor, noise: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled action rows [B, columns], outputs of the action head [B, outputs], and values [B].

        The outputs are those that were sampled from: masked by `masks` [B, masks], if any.
        """
        outputs, values = self._masked(self.forward(observations), masks)
        return self.distribution.sample(outputs, self.log_std, noise), outputs, values

    def evaluate_actions(
        self, observations: Tensor, actions: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of given action rows, entropies, and values: [B] each."""
        outputs, values = self._masked(self.forward(observations), masks)
        log_probs, entropies = self.distribution.log_probs_and_entropies(outputs, self.log_std, actions)
        return log_probs, entropies, values

    @torch.no_grad()
    def remembering_actions(
        self,
        observations: Rows,
        state: NDArray[np.float32],
        masks: NDArray[np.bool_] | None = None,
        noise: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Action rows [B, columns] as environments take them, the likeliest or by noise, and the next state [B, M]."""
        seen, remembered = (torch.tensor(array, device=self.device) for array in (observations, state))
        outputs, _, after = self._recall(self.extractor.in_float32(seen), remembered)
        if masks is not None:
            outputs = self.distribution.masked(outputs, torch.tensor(masks, device=self.device))
        if noise is None:
            actions = self.distribution.mode(outputs)
        else:
            actions = self.distribution.sample(outputs, self.log_std, torch.tensor(noise, device=self.device))
        return self.environment_rows(actions), after.cpu().numpy()

    @torch.no_grad()
    def deterministic_actions(self, observations: Rows, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """The likeliest action rows [B, columns] of normalised observations [B, D], as environments take them."""
        self._require_no_memory()
        valid = None if masks is None else torch.tensor(masks, device=self.device)
        features = self.extractor.in_float32(torch.tensor(observations, device=self.device))
        outputs, _ = self._masked(self.readout(features), valid)
        return self.environment_rows(self.distribution.mode(outputs))

    def _require_no_memory(self) -> None:
        if self.memory.state_size:
            raise RuntimeError("a policy with memory needs a state: see step, sequence and remembering_actions")

    def _masked(self, of_network: tuple[Tensor, Tensor], masks: Tensor | None) -> tuple[Tensor, Tensor]:
        outputs, values = of_network
        return (outputs if masks is None else self.distribution.masked(outputs, masks)), values

    def environment_rows(self, actions: Tensor) -> NDArray[Any]:
        """Action rows [B, columns] of the distribution as the environment takes them: squashed, if the spec says so."""
        rows: NDArray[Any] = actions.cpu().numpy()
        if not self.spec.squash_output:
            return rows
        parts, begin = [], 0
        for leaf in self.action_space.leaves:
            own, begin = rows[:, begin : begin + leaf.columns], begin + leaf.columns
            parts.append(own if leaf.low is None or leaf.high is None else squashed(own, leaf.low, leaf.high))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    @torch.no_grad()
    def project(self) -> None:
        """Brings the log-std back into its bounds after a step; unlike a clamp in the loss, that kills no gradient."""
        if self.log_std.numel():
            self.log_std.clamp_(*LOG_STD_BOUNDS)

    def metrics(self) -> dict[str, float]:
        """What of the policy itself is worth watching."""
        return {"train/std": float(self.log_std.detach().exp().mean())} if self.log_std.numel() else {}

    @torch.no_grad()
    def metrics_of(self, outputs: Tensor, valid: NDArray[np.bool_]) -> dict[str, float]:
        """What is worth watching of outputs that it acted by: the standard deviations, where states have their own.

        Their entropy would not do: that of numbers may be negative, and no share of it says how narrow they became.

        Args:
            outputs: [T, N, outputs] of the action head.
            valid: [T, N]; the others weigh nothing.
        """
        if not self.distribution.log_stds:
            return {}
        log_std = within_bounds(outputs[..., -self.distribution.log_stds :])
        return {"train/std": float(log_std.exp()[torch.from_numpy(valid).to(self.device)].mean())}

    def named_views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of `flat` [P], this policy's own or one laid out like it, by the names that files bear."""
        return {place.name: place.view(flat) for place in self.places}

    def arrays(self, flat: Tensor) -> dict[str, NDArray[Any]]:
        """`named_views` as NumPy arrays; on the CPU they share the tensor's memory."""
        return {name: view.detach().cpu().numpy() for name, view in self.named_views(flat).items()}

    def layer_names(self) -> tuple[str, ...]:
        """The actor's linear layers from observation to head, without `/weight` and `/bias`."""
        depth = len(self.spec.hidden_sizes)
        trunk = "trunk" if self.spec.share_features else "actor"
        return (*(f"{trunk}/{layer}" for layer in range(depth)), f"actor/{0 if self.spec.share_features else depth}")


def distribution_of(
    action_space: ActionSpace, spec: PolicySpec, *, features: int, action_masks: bool = False
) -> Distribution:
    """The distribution that fits an action space, of the kind that the spec asks for.

    Args:
        features: those that the actor's hidden layers end in.
        action_masks: whether choices may be masked.
    Raises: InvalidSpec where the spec asks for what the action space does not have.
    """
    require_what_is_asked(action_space, spec, action_masks=action_masks)
    if action_space.parts:
        options = spec.model_copy(update={"use_sde": False})
        return Product(tuple(_leaf(leaf, options, 0, action_masks=action_masks) for leaf in action_space.leaves))
    return _leaf(action_space, spec, features, action_masks=action_masks)


def _leaf(action_space: ActionSpace, spec: PolicySpec, features: int, *, action_masks: bool) -> Distribution:
    if action_space.kind == "multi_binary":
        return Bernoulli(action_space.columns, has_masks=action_masks)
    if action_space.kind != "box":
        return MultiCategorical(action_space.sizes, has_masks=action_masks)
    columns, density = action_space.columns, squashed_gaussian if spec.squash_output else gaussian
    if spec.use_sde:
        return ExploringGaussian(columns, density, features=features, noise_lasts=spec.sde_sample_freq)
    if spec.state_dependent_std:
        return StateDependentGaussian(columns, density)
    return SquashedGaussian(columns) if spec.squash_output else DiagonalGaussian(columns)


def require_what_is_asked(action_space: ActionSpace, spec: PolicySpec, *, action_masks: bool) -> None:
    """Raises InvalidSpec where the spec asks for Box actions, bounds of theirs, or choices, that the space has not."""
    if spec.squash_output and not action_space.is_bounded:
        raise InvalidSpec([SpecFault("/policy/squash_output", "needs Box actions with finite bounds")])
    if spec.state_dependent_std and all(leaf.kind != "box" for leaf in action_space.leaves):
        raise InvalidSpec([SpecFault("/policy/state_dependent_std", "needs Box actions")])
    if spec.use_sde and action_space.kind != "box":
        raise InvalidSpec([SpecFault("/policy/use_sde", "needs Box actions that are no part of a Dict or a Tuple")])
    if action_masks and not action_space.masks:
        raise InvalidSpec([SpecFault("/env/action_masks", "Box actions cannot be masked")])
