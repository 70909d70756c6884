"""Environments for tests, all under `test/`. Arguments are keyword arguments with the defaults shown.

Well-behaved (two observation numbers, two actions, episodes of 20 steps, unless said otherwise)
    test/Walk-v0                  a random walk: its observations, rewards and ends depend on seed and actions
    test/Slow-v0                  the walk; each step sleeps `seconds_per_step=0.01`
    test/Chatty-v0                the walk; each step prints `lines_per_step=10` lines to stdout and one to stderr
    test/SharedBuffer-v0          the walk; one observation buffer, changed in place by step and reset
    test/Unrepeatable-v0          the walk, its moves drawn from os.urandom: no replay leads to the same place
    test/ConstantReward-v0        one state, reward 1, truncated after 10 steps: V = 1 / (1 - gamma)
    test/Ramp-v0                  observation t, reward t, truncated after 10 steps: V differs from state to state
    test/ManyFeatures-v0          the walk with `features=1000` observation numbers
Spaces
    test/Edge-v0                  what a test in its process sets as attributes of the class: `look`, spaces, `reward`
    test/DictObservation-v0       a Dict of Box, Discrete and a Tuple of MultiBinary and MultiDiscrete
    test/TupleObservation-v0      a Tuple of Discrete (from 3) and a 2 x 2 Box
    test/MultiDiscreteAction-v0   MultiDiscrete [3, 2]            test/MatrixAction-v0    MultiDiscrete [[2, 3], [4, 2]]
    test/MultiBinaryAction-v0     MultiBinary 3                   test/OffsetAction-v0      Discrete 3 from -1
    test/AsymmetricAction-v0      Box [-3, 0] to [1, 10]          test/MatrixBoxAction-v0   Box of shape (2, 2)
      each rewards the share of the action that is right, and raises ValueError for an action outside its space
    test/TupleAction-v0           a Tuple of Discrete 3 and Box 2
    test/DictAction-v0            a Dict of a Tuple (of Box 2 and MultiBinary 2), Discrete 3 from -1 and MultiDiscrete
      [2, 3]; two states; `masks="none"`, "parts", "flat", "short part"
    test/TextAction-v0            a Text action space: unsupported
Action masks, which say what does not raise; `by="info"` or "method", `form="flat"`, "integers", "heads", "lists"
    test/Masked-v0                Discrete 5 from -1              test/MaskedMulti-v0     MultiDiscrete [2, 5, 3]
    test/MaskedBits-v0            MultiBinary 3
      the share of heads with their last valid choice is the reward; from step `at_step=5` of its life on the mask is at
      `fault="none"`: "nothing valid", "short", "floats", "text", "two", "missing", "unequal heads"
Probes of learning (one step unless said otherwise)
    test/ProbeConstant-v0         one action, observation 0, reward 1: V = 1
    test/ProbeObservation-v0      one action, observation and reward both +1 or -1: V = observation
    test/ProbeDiscount-v0         one action, two steps, observations 0 then 1, reward 1 at the end: V = gamma, 1
    test/ProbeAction-v0           observation 0, action 1 earns +1, action 0 earns -1
    test/ProbeObservationAction-v0    observation +1 or -1; +1 for action 1 at +1 and action 0 at -1, otherwise -1
    test/ProbeImage-v0            36 x 36 bytes, `channels=3`, `channels_first=False`, 5 steps; the action that has the
                                  number of the bright quadrant earns 1
    test/ProbeImageDict-v0        a Dict of two numbers, such a picture, and a bit that says whether 3 - action counts
    test/CueChoice-v0 and CueChoices, CueBits, CueMasked, CueNumber, CueTuple, CueDict    six steps; one task for every
      kind of action, whose values are known: see `cues`; test/CueChoiceForgotten-v0 and so on need memory
    test/Dither-v0                one Box number; the best deviation depends on the observation, +1 or -1
Memory
    test/CartPolePositions-v0     CartPole without velocities, 500 steps
    test/TMaze-v0                 a sign, `delay=20` steps without it, and the turn that it was for: +1 or -1; 60 steps
Ill-behaved: the walk, until `at_step=5` (or `at_reset=0`) of one environment's life; both count over all its episodes
    test/RaisesInConstructor-v0   test/RaisesInReset-v0 (RuntimeError)    test/RaisesInStep-v0 (RuntimeError)
    test/ExitsInStep-v0           raises SystemExit
    test/NaNObservation-v0        test/InfiniteObservation-v0     test/HugeObservation-v0 (float64, beyond float32)
    test/NaNReward-v0             test/InfiniteReward-v0          test/NaNInReset-v0
    test/WrongShape-v0            test/WrongType-v0 (strings)     test/ArrayReward-v0    test/TextReward-v0
    test/NumberEnd-v0             terminated is 0, not a bool     test/ShortStep-v0      four values, not five
    test/HangsInStep-v0           sleeps forever, ignores SIGTERM test/HangsInReset-v0   the same
    test/HangsWithLock-v0         never comes back, and never lets go of the interpreter's lock
    test/KillsItself-v0           SIGKILL to its process          test/ExitsProcess-v0   os._exit(`status=3`)
    test/AllocatesInStep-v0       allocates `mebibytes=100` more with each step from `at_step` on
    test/HangsInClose-v0          sleeps forever in close, ignores SIGTERM
State that outlives episodes, or lies elsewhere: the walk, unless said otherwise
    test/Curriculum-v0            rewards grow with the episodes begun    test/Closed-v0      counted in a closure
    test/SharedCurriculum-v0      the same, counted in a class and in a global of the module, for all environments
    test/LateCurriculum-v0        after 100 episodes rewards change their sign; counted by an iterator
    test/KeptCurriculum-v0        the same, with state_dict and load_state_dict
    test/Statistics-v0            a wrapper centres observations by their mean over its life    test/Opaque-v0    with a
      generator in it    test/KeptStatistics-v0    the same, with state_dict and load_state_dict
    test/Hidden-v0                observations are zeros       test/Clocked-v0      strides depend on the clock
    test/GlobalRandom-v0          draws from `random` and `numpy.random`
    test/ForgetsItsSeed-v0        its reset does not hand the seed on
    test/SampledActions-v0        observes one of 4 numbers, drawn from its action space; 1 for the action that names it
What is one for the whole process
    test/DoubleByDefault-v0       its constructor makes float64 torch's default type, which it relies on later
    test/WithoutGradients-v0      its constructor switches gradients off
    test/SwitchesInStep-v0        its first step does both, and sets threads, the directory, warnings and NumPy's errors
    test/SharedTensor-v0          one torch tensor for all observations    test/SharedArrayLike-v0    something else
Foreign vector environments of the walk, each with a plain form as well
    test/NextStep-v0    test/SameStep-v0    test/Disabled-v0    by the autoreset mode of their vector form
    test/Unlabelled-v0  its vector form does not say how it resets
"""

from ppo_test_environments.registration import register

__all__ = ["register"]
