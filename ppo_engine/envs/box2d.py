"""Makes the episodes of Gymnasium's Box2D environments independent of those before."""

import sys
from typing import Any

import gymnasium


def with_fresh_worlds(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """The environment, each of its episodes in a physics world of its own where it is one of Box2D.

    Box2D hands freed bodies out again in another order, so that an episode in a world that was used before depends on
    how often it was: BipedalWalker's differ from their first step on. LunarLander makes a new world by itself.
    """
    box2d = sys.modules.get("Box2D")
    world = getattr(env.unwrapped, "world", None)
    if box2d is None or not isinstance(world, box2d.b2World) or not hasattr(env.unwrapped, "_destroy"):
        return env
    return FreshWorld(env)


class FreshWorld(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Replaces the environment's world before every reset, with the gravity and the listener of the one before."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        env: Any = self.env.unwrapped
        listener = env.world.contactListener
        env._destroy()
        world = type(env.world)(gravity=env.world.gravity)
        world.contactListener = listener
        env.world = world
        return self.env.reset(seed=seed, options=options)
