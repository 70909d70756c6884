"""The job spec: what to train. One frozen model per concern; imports neither torch nor Gymnasium.

A `TrainingSpec` checks shape: types, bounds, unknown fields. What depends on several fields at once, or on the
environment, is checked on the *resolved* spec (`ppo_engine.presets.resolve`), because a preset may fill one of them in.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, JsonValue, StringConstraints, Tag

SPEC_VERSION = 1
"""Stored beside each spec; a change of meaning raises it and adds an upgrade function."""


class SpecModel(BaseModel):
    """Strict and frozen: `"7"` is no integer, `true` no float, NaN no number, and an unknown field is a fault."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class SpecFault:
    """One thing that is wrong with a spec, and where: `pointer` is a JSON Pointer into it (RFC 6901)."""

    pointer: str
    message: str


class InvalidSpec(ValueError):
    """The spec cannot be trained; `faults` says why, one entry per fault."""

    def __init__(self, faults: list[SpecFault]) -> None:
        super().__init__("; ".join(f"{fault.pointer}: {fault.message}" for fault in faults))
        self.faults = faults


class LinearSchedule(SpecModel):
    """A value that moves in a straight line from `initial` at the start of training to `final` at its end."""

    kind: Literal["linear"] = "linear"
    initial: float = Field(gt=0, le=1e3)
    final: float = Field(default=0.0, ge=0, le=1e3)


Schedule: TypeAlias = Annotated[float, Field(gt=0, le=1e3)] | LinearSchedule
"""A constant, or a `LinearSchedule`."""


class KLAdaptiveRate(SpecModel):
    """A learning rate that follows the KL between the policy before and after each iteration, which it measures.

    It is divided by `factor` after an iteration whose KL was more than twice the target, and multiplied by it after one
    whose KL was less than half of it. Source: the adaptive schedule of rl_games and rsl_rl, after Heess et al. 2017,
    arXiv:1707.02286; but once an iteration: at its first minibatches the KL is near 0 whatever the rate, so a step of
    the rate per minibatch would raise it so many times over.
    """

    kind: Literal["kl_adaptive"]
    initial: float = Field(default=3e-4, gt=0, le=1e3)
    target_kl: float = Field(default=0.01, gt=0, le=100)
    minimum: float = Field(default=1e-6, gt=0, le=1e3)
    maximum: float = Field(default=1e-2, gt=0, le=1e3)
    final: float | None = Field(default=None, ge=0, le=1e3, exclude_if=lambda final: final is None)
    """Where it is given, `maximum` falls in a straight line to it: the rate decays as a linear one, and sooner where
    the KL asks for it."""
    factor: float = Field(default=1.5, gt=1, le=10)


def _kind_of(value: object) -> str | None:
    """Which learning rate a value means to be, so that only this one says what is wrong with it."""
    if not isinstance(value, dict | LinearSchedule | KLAdaptiveRate):
        return "constant"
    kind = value.get("kind", "linear") if isinstance(value, dict) else value.kind
    return kind if isinstance(kind, str) and kind != "constant" else None


LearningRate: TypeAlias = Annotated[
    Annotated[float, Field(gt=0, le=1e3), Tag("constant")]
    | Annotated[LinearSchedule, Tag("linear")]
    | Annotated[KLAdaptiveRate, Tag("kl_adaptive")],
    Discriminator(
        _kind_of, custom_error_type="learning_rate_kind", custom_error_message="kind should be linear or kl_adaptive"
    ),
]
"""A `Schedule`, or a `KLAdaptiveRate`."""


class KLPenaltySpec(SpecModel):
    """A penalty β · KL(old ‖ new), exact and in the mean over the rows, on the policy's change in one iteration."""

    kind: Literal["fixed", "adaptive", "dual"] = "adaptive"
    """How β changes after an iteration that ended at a KL. `fixed`: not. `adaptive`: it is multiplied by `factor` if
    the KL was more than 1.5 times the target, and divided by it if it was less than the target by as much (Schulman et
    al. 2017, section 4, arXiv:1707.06347). `dual`: gradient ascent on the multiplier of the constraint KL ≤ target, in
    its logarithm: log β grows by `step_size` times the KL's relative excess, KL / target - 1, which is taken as 1 where
    it is more."""
    coef: float = Field(default=1.0, ge=0, le=1e4)
    """β in the first iteration."""
    target: float = Field(default=0.01, gt=0, le=100)
    """In nats."""
    factor: float = Field(default=2.0, gt=1, le=10)
    """For `adaptive`. The KL at the optimum goes with 1 / β²: a smaller factor does not jump over the band."""
    step_size: float = Field(default=0.3, gt=0, le=2)
    """For `dual`."""
    stiffness: float = Field(default=10.0, ge=0, le=1e4)
    """How steep the penalty becomes beyond the target: its slope is β times 1 + so many times the relative excess,
    KL / target - 1, of a minibatch. It holds each iteration where β alone, which changes between them, holds their
    mean: rollouts differ in how far they push. 0: the penalty of Schulman et al. 2017. Source: the squared hinge of
    Heess et al. 2017, arXiv:1707.02286, algorithm 1, here from the target on and in units of it."""
    minimum: float = Field(default=1e-4, gt=0, le=1e4)
    """β stays above it, so that it can grow again."""
    maximum: float = Field(default=1e4, gt=0, le=1e6)


class TRPOSpec(SpecModel):
    """The policy's one step per iteration: the natural gradient, as far as a line search finds it to help.

    Source: Schulman et al. 2015, arXiv:1502.05477; defaults as in sb3-contrib.
    """

    max_kl: float = Field(default=0.01, gt=0, le=100)
    """Mean KL(old ‖ new) of the step, at the most."""
    cg_steps: int = Field(default=15, ge=1, le=1000)
    """Steps of the conjugate gradient, at the most."""
    cg_damping: float = Field(default=0.1, ge=0, le=100)
    """Times the identity, added to the Fisher matrix."""
    line_search_steps: int = Field(default=10, ge=1, le=1000)
    """Lengths that are tried."""
    line_search_shrink: float = Field(default=0.8, gt=0, lt=1)
    """Each is so much of the one before."""


class CriticSpec(SpecModel):
    """An optimiser of the critic's own, for networks that actor and critic do not share."""

    learning_rate: Schedule | None = None
    """None: that of the actor."""
    n_epochs: int | None = Field(default=None, ge=1, le=1000)
    """Epochs in which the critic learns. Those beyond `ppo.n_epochs` are its own; if there are fewer, the actor goes on
    alone. When `target_kl` ends the actor's, the critic goes on with its next. None: every epoch is for both."""


EnvironmentId: TypeAlias = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*(/[A-Za-z0-9][A-Za-z0-9_.\-]*)?$", max_length=100)
]


class AtariSpec(SpecModel):
    """How an Atari game is shown, started and rewarded: as in Mnih et al. 2015 and every comparison since."""

    frame_skip: int = Field(default=4, ge=1, le=60)
    """Frames under one action, which are one step; the brighter of the last two is seen, pixel by pixel."""
    screen_size: int = Field(default=84, ge=36, le=160)
    """Rows and columns of what is seen of the 210 x 160 pixels, averaged."""
    grayscale: bool = True
    noop_max: int = Field(default=30, ge=0, le=1000)
    """A game runs for a random number of frames, of 1 to so many, before it is played."""
    fire_reset: bool = True
    """Press FIRE to begin a game, and a life, where there is such a button."""
    terminal_on_life_loss: bool = True
    """A lost life ends the learner's returns, and the next one is begun with a step of nothing. The game goes on:
    episodes, their statistics and evaluations are of whole games."""
    clip_rewards: bool = True
    """The learner sees only the signs of rewards; statistics and evaluations are of the game's own points."""


class EnvSpec(SpecModel):
    """The environment, and how copies of it are stepped."""

    id: EnvironmentId
    """A Gymnasium id, such as `CartPole-v1`, of the catalogue `GET /v1/environments`."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict, max_length=50)
    """Arguments of the environment, checked against the schema that the catalogue shows."""
    n_envs: int = Field(default=8, ge=1, le=4096)
    """How many copies are stepped side by side (N)."""
    vectorization: Literal["auto", "sync", "process", "batched", "device", "native", "envpool"] = "auto"
    """`sync`: in the training process; `process`: in worker processes; `batched`: our compiled form of a
    classic-control environment; all three give the same bits. `device`: our form of the same environments as tensors
    on the training's device, in float32. `native`: the environment's own vector form, where it has one. `envpool`:
    EnvPool's environment of that id, where EnvPool is installed. `auto` picks the fastest of the first three, or
    `device` where the device is CUDA and the environment has that form."""
    max_episode_steps: int | None = Field(default=None, ge=1, le=10_000_000)
    """Truncate episodes after so many steps; by default what the environment is registered with. A step of an Atari
    game is `atari.frame_skip` frames; by default a game is cut after 108,000 frames, which are half an hour."""
    frame_stack: int = Field(default=1, ge=1, le=64)
    """The policy sees the last so many observations as one, the oldest first; after a reset, the first one as often.
    Images are joined along their channel axis, vectors are concatenated."""
    atari: AtariSpec | None = None
    """For Atari games alone, which have the standard settings where it is left out."""
    action_masks: bool = False
    """The environment says which choices are valid, by `info["action_mask"]` at each reset and step or by a method
    `action_masks()`: booleans, flat or by heads, one per choice, 2 per bit. Others have probability 0, in training and
    in evaluation. For Discrete, MultiDiscrete and MultiBinary actions, and these within Dict and Tuple."""
    step_timeout_seconds: float = Field(default=60.0, gt=0, le=86_400)
    """A reset or a step that takes longer fails the job."""


ActivationName: TypeAlias = Literal["tanh", "relu", "elu", "silu", "gelu", "leaky_relu"]


class PolicySpec(SpecModel):
    """The networks of actor and critic."""

    network: Literal["auto", "mlp", "cnn", "impala"] = "auto"
    """What makes features of observations, for actor and critic alike. `mlp`: nothing, whatever they hold is numbers.
    `cnn`: the convolutions of Mnih et al. 2015, with their layer of 512 units, for images, which are Boxes of uint8
    from 0 to 255 with 2 or 3 axes; in Dict and Tuple observations, all other numbers join the features of the images.
    `impala`: likewise, the residual network of Espeholt et al. 2018, with its layer of 256 units. `auto`: `cnn` where
    an image has 36 pixels each way at least, else `mlp`."""
    hidden_sizes: Annotated[
        tuple[Annotated[int, Field(strict=True, ge=1, le=4096)], ...], Field(strict=False, max_length=8)
    ] = (64, 64)
    """Units of each hidden layer, for actor and critic alike."""
    activation: ActivationName = "tanh"
    """Of every layer, convolutions among them. `gelu` is its tanh form; `leaky_relu` has the slope 0.01."""
    layer_norm: bool = False
    """Normalise what each fully connected layer gives, but for the last ones, before the activation. Source: Ba et al.
    2016, arXiv:1607.06450."""
    autocast: Literal["off", "bf16"] = "off"
    """`bf16`: compute convolutions in bfloat16, from float32 weights. On processors with avx512_bf16 or amx_bf16 an
    update took 0.6 of the time; on others it takes longer."""
    share_features: bool = False
    """One trunk for actor and critic instead of two."""
    log_std_init: float = Field(default=0.0, ge=-20, le=2)
    """Initial logarithm of the standard deviation of continuous actions."""
    squash_output: bool = False
    """Actions are the tanh of a Gaussian, scaled to the environment's bounds, instead of a Gaussian that is clipped to
    them. For Box actions whose bounds are finite."""
    state_dependent_std: bool = False
    """The network gives the logarithm of the standard deviation of continuous actions, too, for each observation; it
    begins at `log_std_init`. Otherwise there is one for all observations."""
    use_sde: bool = False
    """Generalised state-dependent exploration: the noise of continuous actions is a linear function of the actor's last
    features, drawn anew every `sde_sample_freq` steps, which makes exploration smooth. Its variance is the sum over
    the features, so `log_std_init` is to be smaller than without: -2 for 64 units. Source: Raffin et al. 2021,
    arXiv:2005.05719"""
    sde_sample_freq: int | None = Field(default=None, ge=1, le=1_000_000)
    """For how many steps of an environment the noise of `use_sde` stays the same function; None: for a rollout."""
    memory: Literal["none", "lstm", "gru"] = "none"
    """What the policy remembers by of earlier observations of an episode: one recurrent layer, shared by actor and
    critic, before their hidden layers."""
    memory_size: int = Field(default=64, ge=1, le=4096)
    """Units of the memory."""
    sequence_length: int = Field(default=16, ge=1, le=100_000)
    """Steps of an environment that gradients go back through; minibatches are made of whole sequences of so many."""


class PPOSpec(SpecModel):
    """The hyperparameters of PPO and its kin, under Stable-Baselines3's names where it has them."""

    total_timesteps: int = Field(default=1_000_000, ge=1, le=10**12)
    """Environment steps to train for; the last iteration is finished, so a little more may be done."""
    n_steps: int = Field(default=256, ge=1, le=1_000_000)
    """Steps per environment in one rollout (T)."""
    batch_size: int = Field(default=64, ge=1, le=10_000_000)
    """Rows of one minibatch (B)."""
    n_epochs: int = Field(default=10, ge=1, le=1000)
    gamma: float = Field(default=0.99, ge=0, le=1)
    gae_lambda: float = Field(default=0.95, ge=0, le=1)
    """λ of the advantage estimator `gae`, which alone has one."""
    advantage_estimator: Literal["gae", "monte_carlo", "td", "n_step"] = "gae"
    """`gae`: generalised advantage estimates, a mean of the returns of all numbers of steps; `monte_carlo`: the
    discounted sum of all rewards that follow; `td`: one reward, then the critic's value; `n_step`: `n_step` rewards,
    then the critic's value. The critic's value also stands for what lies beyond a truncation or the rollout's end, and
    the return is the critic's target each time."""
    n_step: int | None = Field(default=None, ge=1, le=1_000_000)
    """Rewards that the advantage estimator `n_step` sums, at most."""
    recompute_advantages: bool = False
    """Estimate advantages and returns anew before each epoch but the first, with the critic that the epochs before it
    have made. Source: Andrychowicz et al. 2021, arXiv:2006.05990, section 3.5"""
    learning_rate: LearningRate = 3e-4
    objective: Literal["clip", "dual_clip", "kl_penalty", "none", "trpo"] = "clip"
    """What the policy climbs. `clip`: the clipped surrogate (Schulman et al. 2017). `dual_clip`: the same with a floor
    for bad actions that became likelier (Ye et al. 2020). `kl_penalty`: the plain surrogate less a penalty. `none`: the
    policy gradient without importance weights, which is A2C with one epoch and one minibatch, and goes astray with
    many: nothing corrects for the steps before. `trpo`: a trust region (Schulman et al. 2015)."""
    clip_range: Schedule = 0.2
    """For `clip` and `dual_clip`; `clip_fraction` counts by it with every objective."""
    dual_clip: float = Field(default=3.0, gt=1, le=1e3)
    """For `dual_clip`: how many times a bad action's advantage its term is at the worst. arXiv:1912.09729, eq. 5"""
    kl_penalty: KLPenaltySpec | None = None
    """For `kl_penalty`; with `clip` and `dual_clip` it is added to them."""
    trpo: TRPOSpec | None = None
    """For `trpo`, which makes one step with all rows. The entropy bonus is part of what it climbs."""
    rpo_alpha: float = Field(default=0.0, ge=0, le=100)
    """Perturb the means of continuous actions by uniform numbers in ± this while learning, so that the policy stays
    spread (RPO: Rahman and Xue 2022, arXiv:2212.07536). For Box actions."""
    clip_range_vf: Schedule | None = None
    """Clip the value function's change as well; off by default, since its scale is that of the returns."""
    normalize_advantage: Literal["minibatch", "batch", "off"] = "minibatch"
    ent_coef: Annotated[float, Field(ge=0, le=10)] | LinearSchedule = 0.0
    vf_coef: float = Field(default=0.5, ge=0, le=100)
    critic: CriticSpec = CriticSpec()
    max_grad_norm: float = Field(default=0.5, gt=0, le=1e6)
    target_kl: float | None = Field(default=None, gt=0, le=100)
    """End an iteration's epochs when approx_kl exceeds 1.5 times this, before the step that would follow."""


class NormalizeSpec(SpecModel):
    """Running normalisation, with statistics in float64 that are saved, and frozen in evaluation."""

    observations: bool = True
    rewards: bool = True
    """Divide rewards by the standard deviation of the discounted return."""
    values: bool = False
    """The critic predicts returns in units of the mean and deviation of all returns so far, in which its loss and
    `clip_range_vf` are, too. When these change, its last layer is rescaled to give the values that it gave before.
    Source: van Hasselt et al. 2016, arXiv:1602.07714"""
    epsilon: float = Field(default=1e-8, gt=0, le=1e6)
    """Added to the variance of each feature of the observations before they are divided by its root, so that one that
    hardly ever moves is not blown up. For `observations`."""
    clip_observations: float = Field(default=10.0, gt=0, le=1e6)
    clip_rewards: float = Field(default=10.0, gt=0, le=1e6)


class EvaluationSpec(SpecModel):
    """Evaluation during training, in an environment of its own, on raw returns."""

    every_timesteps: int | None = Field(default=None, ge=1, le=10**12)
    """None: no evaluation during training."""
    n_episodes: int = Field(default=10, ge=1, le=10_000)
    deterministic: bool = True


class CheckpointSpec(SpecModel):
    """When checkpoints are written, and which are kept. One is always written at the end."""

    every_timesteps: int | None = Field(default=None, ge=1, le=10**12)
    every_seconds: float | None = Field(default=30.0, gt=0, le=86_400)
    keep_last: int = Field(default=3, ge=1, le=1000)
    keep_best: int = Field(default=1, ge=0, le=1000)


class MetricsSpec(SpecModel):
    """How often metrics become an event of the ledger."""

    every_iterations: int | None = Field(default=None, ge=1, le=100_000_000)
    """Events hold means over so many iterations; by default as many as keep a job under 10,000 events."""


class StopSpec(SpecModel):
    """Stop before `total_timesteps` when a metric reaches a threshold; the job has then succeeded."""

    metric: Literal["rollout/ep_rew_mean", "eval/mean_reward"] = "rollout/ep_rew_mean"
    threshold: float | None = None
    """None: never stop early."""


class BudgetSpec(SpecModel):
    """Limits that the user sets; none is hidden."""

    max_wall_seconds: float | None = Field(default=None, gt=0, le=10**8)
    """Wall-clock time of training, summed over attempts; beyond it the job fails, keeping its checkpoints."""


class EvaluationBudgetSpec(SpecModel):
    """Limits of an evaluation; it has them whether or not its user sets them."""

    max_wall_seconds: float = Field(default=3600.0, gt=0, le=86_400)
    """Wall-clock time of playing, summed over attempts; beyond it the evaluation fails. An hour unless told otherwise,
    a day at the most."""


class TrainingSpec(SpecModel):
    """What to train. Only `env.id` is required: the preset fills in the rest, and whatever is set here wins."""

    name: str | None = Field(default=None, min_length=1, max_length=200)
    metadata: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=512)],
        ],
        Field(max_length=16),
    ] = Field(default_factory=dict)
    preset: Literal["tuned", "default"] = "tuned"
    """`tuned`: start from the hyperparameters that were tuned for this environment, where there are any;
    `default`: start from the general ones."""
    env: EnvSpec
    policy: PolicySpec = PolicySpec()
    ppo: PPOSpec = PPOSpec()
    normalize: NormalizeSpec = NormalizeSpec()
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """None: one is drawn at acceptance and recorded."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` is the CPU for an MLP, which is faster there."""
    backend: Literal["auto", "torch", "fused"] = "auto"
    """`torch`: any policy on any device; `fused`: compiled loops for MLP policies on the CPU, the same algorithm on the
    same numbers. `auto` picks the faster one that can do it; which one and why stands in the attempt's `runtime`."""
    evaluation: EvaluationSpec = EvaluationSpec()
    checkpoints: CheckpointSpec = CheckpointSpec()
    metrics: MetricsSpec = MetricsSpec()
    stop: StopSpec = StopSpec()
    budget: BudgetSpec = BudgetSpec()
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Attempts that may end without a new checkpoint; a job that makes progress is never given up."""
    group: str | None = Field(default=None, min_length=1, max_length=100)
    """Jobs that belong together, such as the seeds of one experiment."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Higher is claimed first; within a priority, the older job."""


class EvaluationPlan(SpecModel):
    """The episodes of an evaluation of its own: plan and policy determine every return.

    They are played in blocks, each with seeds of its own, so that an evaluation can go on behind the last finished one.
    """

    env: EnvSpec
    """`n_envs` copies are stepped side by side."""
    n_episodes: int = Field(ge=1)
    seed: int = Field(ge=0, lt=2**63)
    deterministic: bool = True
    """The likeliest actions instead of sampled ones."""
    block_episodes: int = Field(default=32, ge=1)
    budget: EvaluationBudgetSpec = EvaluationBudgetSpec()

    @property
    def blocks(self) -> int:
        return -(-self.n_episodes // self.block_episodes)

    def episodes_until(self, block: int) -> int:
        """How many episodes the first `block` blocks have."""
        return min(self.n_episodes, block * self.block_episodes)


class EnvironmentDescription(BaseModel):
    """What a worker knows of one environment: an entry of the catalogue."""

    model_config = ConfigDict(frozen=True)

    id: str
    origin: str
    """Distribution that provides it, with its version."""
    plugin: str | None = None
    """Entry point of the plugin that registers it; None of those that are offered without one."""
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    """The arguments that it has here; without those that it needs, spaces and sizes are empty."""
    supported: bool
    unsupported_reason: str | None = None
    observation_space: dict[str, JsonValue]
    """`{"type": "Box", "shape": [4], "dtype": "float32", "low": [...], "high": [...]}` and so on; nested for Dict and
    Tuple; infinite bounds are null."""
    action_space: dict[str, JsonValue]
    observation_size: int
    """Features of one flattened observation (D)."""
    action_size: int
    """Outputs of the policy head: logits, or means."""
    max_episode_steps: int | None = None
    kwargs_schema: dict[str, JsonValue]
    """JSON Schema of `env.kwargs`."""
    native_vector: bool = False
    """Whether it may be stepped with `vectorization: "native"`."""
    batched_vector: bool = False
    """Whether it may be stepped with `vectorization: "batched"` or `"device"`."""
    action_masks: bool = False
    """Whether it has a method `action_masks()`; others may give masks in `info["action_mask"]`."""
    resume: Literal["exact", "approximate"] = "exact"
    resume_note: str | None = None

    def describes(self, env: EnvSpec) -> bool:
        """Whether the spaces here are those that the environment has with the arguments of a spec."""
        return self.arguments == env.kwargs and bool(self.observation_space or not self.supported)


def stacking_fault(env: EnvSpec) -> SpecFault | None:
    """Why observations cannot be stacked as the spec asks; None where they can.

    What steps many environments as one hands out no observations of single ones that could be joined.
    """
    if env.frame_stack == 1 or env.vectorization in ("auto", "sync", "process"):
        return None
    if env.vectorization == "native" and env.atari is not None:
        # Atari's own vector form stacks what it shows.
        return None
    return SpecFault("/env/frame_stack", f"{env.vectorization} environments stack no observations; sync and process do")


def masking_fault(env: EnvSpec) -> SpecFault | None:
    """Why action masks cannot be had as the spec asks; None where they can."""
    if not env.action_masks or env.vectorization in ("auto", "sync", "process"):
        return None
    message = f"{env.vectorization} environments hand out no masks of single ones; sync and process do"
    return SpecFault("/env/action_masks", message)


def wanted_queue(spec: TrainingSpec) -> Literal["cpu", "cuda"]:
    """The queue that a resolved spec waits in: an MLP trains on the CPU unless its user asks for CUDA."""
    return "cuda" if spec.device == "cuda" else "cpu"


def resolution_of(spec: TrainingSpec) -> dict[str, Any]:
    """A resolved spec as JSON, without the fields that are to be settled where the environment is made."""
    document = spec.model_dump(mode="json")
    for name in spec.model_fields_set:
        if isinstance(section := getattr(spec, name), SpecModel):
            document[name] = {k: v for k, v in document[name].items() if k in section.model_fields_set}
    if "backend" not in spec.model_fields_set:
        del document["backend"]
    return document


def is_settled(spec: TrainingSpec) -> bool:
    """Whether every field of a resolved spec is set."""
    return resolution_of(spec) == spec.model_dump(mode="json")


def settings_made(model: BaseModel) -> dict[str, Any]:
    """Exactly the fields that were set, nested, as JSON values: what wins over a preset."""
    return model.model_dump(mode="json", exclude_unset=True)
