"""The physics of Gymnasium's five classic-control environments, on tensors of N copies.

In float32, where Gymnasium computes in float64: trajectories agree closely over tens of steps, not to the bit. No
branch depends on data, so that everything can be captured in a CUDA graph.

Source of dynamics, constants and rewards: gymnasium.envs.classic_control 1.4, the modules of the same names.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor


class Outcome(NamedTuple):
    """What a step led to, before any reset."""

    physics: Tensor
    """[N, S]"""
    rewards: Tensor
    """[N]"""
    terminated: Tensor
    """[N] bool"""


class Physics(Protocol):
    """One environment's equations."""

    draws: ClassVar[int]
    """Uniform numbers that the start of an episode takes."""

    def begin(self, uniforms: Tensor) -> Tensor:
        """First states [N, S] of episodes, from numbers [N, draws] in [0, 1)."""

    def advance(self, physics: Tensor, actions: Tensor) -> Outcome:
        """One step from states [N, S], by rows of actions [N, 1]: choices counted from 0, or unclipped numbers."""

    def observe(self, physics: Tensor) -> Tensor:
        """Observations [N, D]."""


@dataclass(frozen=True)
class CartPole:
    """State and observation: position and velocity of the cart, angle and angular velocity of the pole."""

    sutton_barto_reward: bool = False
    draws: ClassVar[int] = 4

    def begin(self, uniforms: Tensor) -> Tensor:
        return 0.1 * uniforms - 0.05

    def advance(self, physics: Tensor, actions: Tensor) -> Outcome:
        gravity, mass, pole_mass, length, push, tau = 9.8, 1.1, 0.1, 0.5, 10.0, 0.02
        velocities = physics[:, 1::2]
        angle, spin = physics[:, 2], physics[:, 3]
        force = (2 * push) * actions[:, 0] - push
        sine, cosine = torch.sin(angle), torch.cos(angle)
        pull = (force + pole_mass * length * spin.square() * sine) / mass
        turning = (gravity * sine - cosine * pull) / (length * (4 / 3 - pole_mass * cosine.square() / mass))
        acceleration = pull - pole_mass * length * turning * cosine / mass
        changes = torch.stack([velocities[:, 0], acceleration, velocities[:, 1], turning], dim=1)
        after = physics + tau * changes
        terminated = (after[:, 0].abs() > 2.4) | (after[:, 2].abs() > 12 * 2 * math.pi / 360)
        if self.sutton_barto_reward:
            return Outcome(after, -terminated.to(after.dtype), terminated)
        return Outcome(after, torch.ones_like(angle), terminated)

    def observe(self, physics: Tensor) -> Tensor:
        return physics


@dataclass(frozen=True)
class MountainCar:
    """State and observation: position and velocity."""

    goal_velocity: float = 0.0
    draws: ClassVar[int] = 1

    def begin(self, uniforms: Tensor) -> Tensor:
        position = 0.2 * uniforms[:, 0] - 0.6
        return torch.stack([position, torch.zeros_like(position)], dim=1)

    def advance(self, physics: Tensor, actions: Tensor) -> Outcome:
        after = rolled(physics, 0.001 * (actions[:, 0] - 1))
        terminated = (after[:, 0] >= 0.5) & (after[:, 1] >= self.goal_velocity)
        return Outcome(after, -torch.ones_like(after[:, 0]), terminated)

    def observe(self, physics: Tensor) -> Tensor:
        return physics


@dataclass(frozen=True)
class MountainCarContinuous(MountainCar):
    """The same valley with a motor that is paid for."""

    def advance(self, physics: Tensor, actions: Tensor) -> Outcome:
        force = actions[:, 0].clamp(-1.0, 1.0)
        after = rolled(physics, 0.0015 * force)
        terminated = (after[:, 0] >= 0.45) & (after[:, 1] >= self.goal_velocity)
        return Outcome(after, 100.0 * terminated - 0.1 * force.square(), terminated)


@dataclass(frozen=True)
class Pendulum:
    """State: angle, 0 upright and kept within ±π, and angular velocity. Never terminates."""

    g: float = 10.0
    draws: ClassVar[int] = 2

    def begin(self, uniforms: Tensor) -> Tensor:
        centred = 2.0 * uniforms - 1.0
        return torch.stack([math.pi * centred[:, 0], centred[:, 1]], dim=1)

    def advance(self, physics: Tensor, actions: Tensor) -> Outcome:
        angle, spin = physics[:, 0], physics[:, 1]
        torque = actions[:, 0].clamp(-2.0, 2.0)
        costs = angle.square() + 0.1 * spin.square() + 0.001 * torque.square()
        faster = (spin + (1.5 * self.g * torch.sin(angle) + 3.0 * torque) * 0.05).clamp(-8.0, 8.0)
        after = torch.stack([wrapped(angle + faster * 0.05), faster], dim=1)
        return Outcome(after, -costs, torch.zeros_like(angle, dtype=torch.bool))

    def observe(self, physics: Tensor) -> Tensor:
        angle, spin = physics.unbind(1)
        return torch.stack([torch.cos(angle), torch.sin(angle), spin], dim=1)


@dataclass(frozen=True)
class Acrobot:
    """State: angles of both links and their velocities. Four stages of Runge-Kutta per step."""

    draws: ClassVar[int] = 4

    def begin(self, uniforms: Tensor) -> Tensor:
        return 0.2 * uniforms - 0.1

    def advance(self, physics: Tensor, actions: Tensor) -> Outcome:
        dt, torque = 0.2, (actions[:, 0] - 1).to(physics.dtype)
        k1 = slopes_of_acrobot(physics, torque)
        k2 = slopes_of_acrobot(physics + dt / 2 * k1, torque)
        k3 = slopes_of_acrobot(physics + dt / 2 * k2, torque)
        k4 = slopes_of_acrobot(physics + dt * k3, torque)
        theta1, theta2, spin1, spin2 = (physics + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)).unbind(1)
        theta1, theta2 = wrapped(theta1), wrapped(theta2)
        spin1, spin2 = spin1.clamp(-4 * math.pi, 4 * math.pi), spin2.clamp(-9 * math.pi, 9 * math.pi)
        terminated = -torch.cos(theta1) - torch.cos(theta1 + theta2) > 1.0
        return Outcome(
            torch.stack([theta1, theta2, spin1, spin2], dim=1), terminated.to(physics.dtype) - 1.0, terminated
        )

    def observe(self, physics: Tensor) -> Tensor:
        theta1, theta2, spin1, spin2 = physics.unbind(1)
        angles = [torch.cos(theta1), torch.sin(theta1), torch.cos(theta2), torch.sin(theta2)]
        return torch.stack([*angles, spin1, spin2], dim=1)


def rolled(physics: Tensor, push: Tensor) -> Tensor:
    """Position and velocity [N, 2] of the car after a step; the left wall takes its velocity."""
    position, velocity = physics.unbind(1)
    velocity = (velocity + push - 0.0025 * torch.cos(3 * position)).clamp(-0.07, 0.07)
    position = (position + velocity).clamp(-1.2, 0.6)
    stopped = (position <= -1.2) & (velocity < 0)
    return torch.stack([position, velocity.masked_fill(stopped, 0.0)], dim=1)


def slopes_of_acrobot(physics: Tensor, torque: Tensor) -> Tensor:
    """Derivatives [N, 4] of the state, by the equations of Sutton and Barto's book.

    All lengths, masses and moments are 1, centres of mass lie half way.
    """
    theta1, theta2, spin1, spin2 = physics.unbind(1)
    g, sine, cosine = 9.8, torch.sin(theta2), torch.cos(theta2)
    d1, d2 = 3.5 + cosine, 1.25 + 0.5 * cosine
    # cos(x - π/2) of the original is sin(x).
    phi2 = 0.5 * g * torch.sin(theta1 + theta2)
    phi1 = -0.5 * spin2.square() * sine - spin2 * spin1 * sine + 1.5 * g * torch.sin(theta1) + phi2
    turning2 = (torque + d2 / d1 * phi1 - 0.5 * spin1.square() * sine - phi2) / (1.25 - d2.square() / d1)
    turning1 = -(d2 * turning2 + phi1) / d1
    return torch.stack([spin1, spin2, turning1, turning2], dim=1)


def wrapped(angle: Tensor) -> Tensor:
    """The angle within ±π; one that lies there already is kept to the bit."""
    return angle - 2 * math.pi * torch.round(angle / (2 * math.pi))
