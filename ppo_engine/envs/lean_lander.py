"""A lean step of Gymnasium's LunarLander: the same physics and random draws without checks and decoration."""

import math
from collections.abc import Callable
from typing import Any

from ppo_engine.envs.lean import StepFunction
from ppo_engine.envs.spaces import Action, Row


def lander_step(env: Any, row: Row) -> StepFunction | None:
    """A step of LunarLander-v3 or LunarLanderContinuous-v3; None for one with wind."""
    from gymnasium.envs.box2d.lunar_lander import FPS, LEG_DOWN, SCALE, VIEWPORT_H, VIEWPORT_W

    if env.enable_wind:
        return None
    fire = _engines(env)
    half_width, half_height = VIEWPORT_W / SCALE / 2, VIEWPORT_H / SCALE / 2
    leg_down, sqrt, seconds = LEG_DOWN / SCALE, math.sqrt, 1.0 / FPS

    def step(action: Action) -> tuple[float, bool, bool]:
        lander, (left_leg, right_leg) = env.lander, env.legs
        main, side = fire(lander, action)
        env.world.Step(seconds, 6 * 30, 2 * 30)

        position, velocity, angle = lander.position, lander.linearVelocity, lander.angle
        x = (position.x - half_width) / half_width
        y = (position.y - (env.helipad_y + leg_down)) / half_height
        velocity_x, velocity_y = velocity.x * half_width / FPS, velocity.y * half_height / FPS
        left, right = 1.0 if left_leg.ground_contact else 0.0, 1.0 if right_leg.ground_contact else 0.0
        row[:] = (x, y, velocity_x, velocity_y, angle, 20.0 * lander.angularVelocity / FPS, left, right)
        shaping = (
            -100 * sqrt(x * x + y * y)
            - 100 * sqrt(velocity_x * velocity_x + velocity_y * velocity_y)
            - 100 * abs(angle)
            + 10 * left
            + 10 * right
        )
        reward = shaping - env.prev_shaping - main * 0.30 - side * 0.03
        env.prev_shaping = shaping
        if not lander.awake:
            return 100.0, True, False
        if env.game_over or abs(x) >= 1.0:
            return -100.0, True, False
        return reward, False, False

    return step


def _engines(env: Any) -> Callable[[Any, Action], tuple[float, float]]:
    """What fires a lander's engines as an action says, and tells the power of the main one and of a side one."""
    from gymnasium.envs.box2d.lunar_lander import (
        MAIN_ENGINE_POWER,
        MAIN_ENGINE_Y_LOCATION,
        SCALE,
        SIDE_ENGINE_AWAY,
        SIDE_ENGINE_HEIGHT,
        SIDE_ENGINE_POWER,
    )

    throttles = _continuous_throttles if env.continuous else _discrete_throttles
    main_y, sin, cos = MAIN_ENGINE_Y_LOCATION / SCALE, math.sin, math.cos

    def fire(lander: Any, action: Action) -> tuple[float, float]:
        angle, uniform = lander.angle, env.np_random.random
        tip_x, tip_y = sin(angle), cos(angle)
        side_x, side_y = -tip_y, tip_x
        # What `uniform(-1, 1)` computes.
        spread_x, spread_y = (-1.0 + 2.0 * uniform()) / SCALE, (-1.0 + 2.0 * uniform()) / SCALE
        main, side, direction = throttles(action)
        if main:
            ox = tip_x * (main_y + 2 * spread_x) + side_x * spread_y
            oy = -tip_y * (main_y + 2 * spread_x) - side_y * spread_y
            position = lander.position
            lander.ApplyLinearImpulse(
                (-ox * MAIN_ENGINE_POWER * main, -oy * MAIN_ENGINE_POWER * main),
                (position.x + ox, position.y + oy),
                True,
            )
        if side:
            away = 3 * spread_y + direction * SIDE_ENGINE_AWAY / SCALE
            ox = tip_x * spread_x + side_x * away
            oy = -tip_y * spread_x - side_y * away
            position = lander.position
            # 17 is Gymnasium's, where SIDE_ENGINE_HEIGHT may have been meant.
            place = (position.x + ox - tip_x * 17 / SCALE, position.y + oy + tip_y * SIDE_ENGINE_HEIGHT / SCALE)
            lander.ApplyLinearImpulse((-ox * SIDE_ENGINE_POWER * side, -oy * SIDE_ENGINE_POWER * side), place, True)
        return main, side

    return fire


def _discrete_throttles(action: int) -> tuple[float, float, float]:
    """Power of the main engine and of a side engine, 0 to 1, and the latter's direction."""
    if action == 2:
        return 1.0, 0.0, 0
    return (0.0, 1.0, action - 2) if action else (0.0, 0.0, 0)


def _continuous_throttles(action: Action) -> tuple[float, float, float]:
    main, lateral = action.tolist()
    side = min(max(abs(lateral), 0.5), 1.0) if abs(lateral) > 0.5 else 0.0
    return (min(main, 1.0) + 1.0) * 0.5 if main > 0.0 else 0.0, side, math.copysign(1.0, lateral)
