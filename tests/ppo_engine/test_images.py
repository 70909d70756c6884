"""Laws of images: what is one, where it lies in a row of bytes, and what a spec makes of it."""

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from ppo_engine.envs.catalogue import describe_environment, space_to_json
from ppo_engine.envs.spaces import NotInSpace, ObservationEncoder
from ppo_engine.errors import UnsupportedSpace
from ppo_engine.export import FIRST_FIELDS, spec_sha256
from ppo_engine.images import Image, image_of, images_of, network_for
from ppo_engine.policy import Policy
from ppo_engine.presets import consistency_faults, parameter_count, resolve
from ppo_engine.presets.backends import choose_backend
from ppo_engine.spec import EnvironmentDescription, InvalidSpec, TrainingSpec
from tests.environments import add_plugin
from tests.ppo_engine.networks.test_extractors import CHOICES, MIXED, image_space


def spec(env_id: str = "Foo-v0", **sections: Any) -> TrainingSpec:
    env = {"id": env_id, **sections.pop("env", {})}
    return TrainingSpec.model_validate({"env": env, "seed": 1, **sections})


def described(space: spaces.Space[Any], **fields: Any) -> EnvironmentDescription:
    return EnvironmentDescription.model_validate(
        {
            "id": "Foo-v0",
            "origin": "foo 1.0",
            "supported": True,
            "observation_space": space_to_json(space),
            "action_space": {"type": "Discrete", "n": 3, "start": 0},
            "observation_size": ObservationEncoder(space).size,
            "action_size": 3,
            "kwargs_schema": {"type": "object"},
            **fields,
        }
    )


def pointers(spec: TrainingSpec, space: spaces.Space[Any]) -> list[str]:
    with pytest.raises(InvalidSpec) as refused:
        resolve(spec, described(space))
    return [fault.pointer for fault in refused.value.faults]


@pytest.mark.parametrize(
    ("shape", "image"),
    [
        ((84, 84, 4), Image(0, 84, 84, 4, channels_first=False)),
        ((4, 84, 84), Image(0, 84, 84, 4, channels_first=True)),
        ((96, 64), Image(0, 96, 64, 1, channels_first=False)),
        ((3, 5, 3), Image(0, 5, 3, 3, channels_first=True)),
        ((5, 3, 4), Image(0, 5, 3, 4, channels_first=False)),
        ((4, 3, 5), Image(0, 4, 3, 5, channels_first=False)),
        ((12, 84, 84), Image(0, 84, 84, 12, channels_first=True)),
        ((84,), None),
        ((1, 2, 3, 4), None),
    ],
)
def test_an_image_has_two_axes_or_three_of_which_the_first_or_the_last_are_channels(
    shape: tuple[int, ...], image: Image | None
) -> None:
    assert image_of(shape, "uint8", 0, 255) == image
    assert ObservationEncoder(image_space(*shape)).images == (() if image is None else (image,))


def test_what_holds_no_pixels_is_no_image_and_no_observation() -> None:
    assert image_of((0, 3), "uint8", 0, 255) is None
    with pytest.raises(UnsupportedSpace, match="hold no numbers"):
        ObservationEncoder(image_space(0, 3))


@pytest.mark.parametrize(("dtype", "low", "high"), [("float32", 0, 255), ("uint8", 0, 10), ("uint8", None, 255)])
def test_numbers_that_are_no_bytes_from_0_to_255_are_no_image(dtype: str, low: float | None, high: float) -> None:
    assert image_of((84, 84, 3), dtype, low, high) is None


def test_catalogue_and_encoder_see_the_same_images() -> None:
    parts = [
        MIXED,
        image_space(5, 4, 3),
        image_space(40, 50, 3),
        spaces.MultiBinary([2, 2]),
        spaces.MultiDiscrete([[2, 5]]),
    ]
    space = spaces.Dict({"z": spaces.Tuple(parts), "y": spaces.Box(0, 9, (6, 6), np.uint8), "a": image_space(7, 7)})
    encoder = ObservationEncoder(space)
    assert len(encoder.images) == 5
    assert images_of(space_to_json(space)) == encoder.images


def test_rows_are_bytes_where_the_space_is_made_of_images_alone() -> None:
    both = spaces.Tuple([image_space(2, 3), image_space(4, 4, 3)])
    row = ObservationEncoder(both).encode((np.full((2, 3), 200, np.uint8), np.full((4, 4, 3), 9, np.uint8)))
    assert row.dtype == np.uint8 and row.tolist() == [200] * 6 + [9] * 48
    for space in (MIXED, spaces.Box(0, 255, (128,), np.uint8), spaces.Box(0, 1, (4, 4), np.float32)):
        assert ObservationEncoder(space).encode(space.sample()).dtype == np.float32


@pytest.mark.parametrize("number", [-1, 256, 0.5, np.nan])
def test_what_is_no_byte_is_not_written_into_a_row_of_bytes(number: float) -> None:
    encoder = ObservationEncoder(image_space(2, 2))
    assert encoder.encode([[1, 2], [3, 255]]).tolist() == [1, 2, 3, 255]
    with pytest.raises(NotInSpace, match="no bytes"):
        encoder.encode(np.array([[1, 2], [3, number]]))


def test_auto_is_cnn_where_an_image_leaves_something_for_the_last_convolution() -> None:
    images = {side: (Image(0, side, 50, 3, channels_first=False),) for side in (35, 36)}
    assert network_for("auto", images[36]) == "cnn"
    assert network_for("auto", images[35]) == network_for("auto", ()) == "mlp"
    assert network_for("impala", ()) == "impala"


@pytest.mark.parametrize(
    ("space", "network"),
    [(image_space(84, 84, 4), "cnn"), (image_space(7, 7, 3), "mlp"), (MIXED, "cnn"), (spaces.Discrete(3), "mlp")],
)
def test_a_resolved_spec_names_the_network(space: spaces.Space[Any], network: str) -> None:
    assert resolve(spec(), described(space)).policy.network == network
    assert resolve(spec(policy={"network": "mlp"}), described(space)).policy.network == "mlp"


def test_arguments_may_change_what_is_observed_so_that_the_environment_settles_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = described(image_space(84, 84, 4))
    assert resolve(spec(env={"kwargs": {"obs_type": "ram"}}), picture).policy.network == "auto"
    assert resolve(spec(env={"frame_stack": 4}), picture).policy.network == "cnn"
    assert resolve(spec(env={"kwargs": {"gravity": 1.0}}), described(spaces.Discrete(3))).policy.network == "auto"


def test_a_resolved_spec_of_numbers_keeps_the_name_that_it_had_before_there_were_networks() -> None:
    resolved = resolve(spec("CartPole-v1"), describe_environment("CartPole-v1"))
    fields = {name: resolved.model_dump(mode="json")[name] for name in FIRST_FIELDS}
    first = {
        name: {field: part[field] for field in FIRST_FIELDS[name]} if FIRST_FIELDS[name] else part
        for name, part in fields.items()
    }
    assert first["policy"]["network"] == "mlp"
    named = hashlib.sha256(json.dumps(first, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    assert spec_sha256(resolved) == named


def test_images_have_general_defaults_of_their_own() -> None:
    resolved = resolve(spec(), described(image_space(84, 84, 4)))
    assert (resolved.env.n_envs, resolved.ppo.n_steps, resolved.ppo.batch_size, resolved.ppo.n_epochs) == (
        8,
        128,
        256,
        4,
    )
    assert (resolved.policy.hidden_sizes, resolved.policy.activation, resolved.ppo.ent_coef) == ((), "relu", 0.01)
    assert resolved.ppo.clip_range.model_dump() == {"kind": "linear", "initial": 0.1, "final": 0.0}
    assert resolve(spec(policy={"network": "mlp"}), described(image_space(84, 84, 4))).policy.hidden_sizes == (64, 64)


@pytest.mark.parametrize(
    ("space", "policy", "pointer"),
    [
        (spaces.Discrete(3), {"network": "cnn"}, "/policy/network"),
        (spaces.Discrete(3), {"network": "impala"}, "/policy/network"),
        (image_space(35, 84), {"network": "cnn"}, "/policy/network"),
        (spaces.Discrete(3), {"hidden_sizes": [], "layer_norm": True}, "/policy/layer_norm"),
        (spaces.Discrete(3), {"autocast": "bf16"}, "/policy/autocast"),
        (image_space(84, 84), {"network": "mlp", "autocast": "bf16"}, "/policy/autocast"),
    ],
)
def test_a_network_that_is_not_made_for_the_observations_is_refused(
    space: spaces.Space[Any], policy: dict[str, Any], pointer: str
) -> None:
    assert pointers(spec(policy=policy), space) == [pointer]
    encoder, made = ObservationEncoder(space), spec(policy=policy).policy
    with pytest.raises(InvalidSpec) as refused:
        Policy(made, encoder.size, CHOICES, images=encoder.images, generator=np.random.default_rng(0))
    assert [fault.pointer for fault in refused.value.faults] == [pointer]


def test_the_refusal_says_what_the_network_needs_and_what_there_is() -> None:
    [fault] = consistency_faults(spec(policy={"network": "cnn"}), described(image_space(35, 84)))
    assert fault.message == (
        "cnn needs an image: a Box of uint8 from 0 to 255 with 2 or 3 axes, 36 x 36 pixels at least; "
        "the largest here has 35 x 84"
    )


@pytest.mark.parametrize(
    "policy",
    [{}, {"network": "impala"}, {"layer_norm": True, "hidden_sizes": [7, 5]}, {"network": "mlp", "layer_norm": True}],
)
@pytest.mark.parametrize("space", [image_space(40, 36, 3), MIXED], ids=["image", "mixed"])
def test_parameters_are_counted_as_the_policy_has_them(space: spaces.Space[Any], policy: dict[str, Any]) -> None:
    resolved = resolve(spec(policy=policy), described(space))
    encoder = ObservationEncoder(space)
    made = Policy(resolved.policy, encoder.size, CHOICES, images=encoder.images, generator=np.random.default_rng(0))
    assert parameter_count(resolved, encoder.size, 3, encoder.images) == made.flat.numel()


def test_the_parameters_of_the_nature_network_are_counted_by_hand() -> None:
    """8·8·4·32 + 32 = 8,224; 4·4·32·64 + 64 = 32,832; 3·3·64·64 + 64 = 36,928; 7·7·64·512 + 512 = 1,606,144; 513·4."""
    resolved = resolve(spec(), described(image_space(84, 84, 4)))
    count = parameter_count(resolved, 84 * 84 * 4, 3, images_of(space_to_json(image_space(84, 84, 4))))
    assert count == 8_224 + 32_832 + 36_928 + 1_606_144 + 2_052


def test_a_rollout_of_bytes_counts_a_quarter() -> None:
    """8 · 2048 rows of 2 · 7056 + 3 + 8 are 231 million numbers of 4 bytes; four times as many rows are too many."""
    frames = described(image_space(84, 84, 4))
    assert consistency_faults(resolve(spec(ppo={"n_steps": 2048}), frames), frames) == []
    assert pointers(spec(ppo={"n_steps": 8192}), image_space(84, 84, 4)) == ["/ppo/n_steps"]
    assert pointers(spec(ppo={"n_steps": 2048}, policy={"network": "mlp"}), image_space(84, 84, 4)) == ["/ppo/n_steps"]


def test_a_minibatch_beyond_what_the_layers_may_take_is_refused() -> None:
    """28,224 pixels, and twice 32·20·20 + 64·9·9 + 64·7·7 + 512: 71,488 numbers a frame, 15,019 of them in 2³⁰."""
    frames = image_space(84, 84, 4)
    fitting = spec(ppo={"n_steps": 2048, "batch_size": 15_019})
    assert resolve(fitting, described(frames)).ppo.batch_size == 15_019
    assert pointers(spec(ppo={"n_steps": 2048, "batch_size": 15_020}), frames) == ["/ppo/batch_size"]


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({"network": "cnn"}, 'does not know policy.network = "cnn"'),
        ({"network": "impala"}, 'does not know policy.network = "impala"'),
        ({"network": "mlp", "activation": "silu"}, 'does not know policy.activation = "silu"'),
        ({"network": "mlp", "layer_norm": True}, "does not know policy.layer_norm = true"),
    ],
)
def test_compiled_loops_refuse_what_they_do_not_know(policy: dict[str, Any], reason: str) -> None:
    assert choose_backend(spec(policy=policy)) == ("torch", f"the fused backend {reason}")
    assert "/backend" in pointers(spec(policy=policy, backend="fused"), image_space(84, 84, 4))


def test_an_environment_of_the_catalogue_resolves_to_the_network_for_its_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add_plugin(monkeypatch)
    for name in ("ProbeImage", "ProbeImageDict"):
        env_id = f"test/{name}-v0"
        assert resolve(spec(env_id), describe_environment(env_id)).policy.network == "cnn"
