"""Training that stays on the device: environments, rollout, statistics and update, with one copy back per iteration.

Two designs were weighed.

1. *Two drop-in parts*: a collector and a learner like those of the other backends, with statistics on the host between
   them. Rewards are normalised by statistics of the very rollout that is learned from, so the host would have to wait
   for the rollout, work on it, and send rewards back before the update may begin.
2. *One iteration on the device*: the statistics of observations, rewards and episodes are taken in there too. The host
   uploads what it holds, launches everything, and waits once, for one packed report.

This is the second. Between two iterations the host's objects are the truth, so that checkpoints and evaluation are the
same code for every backend.

What is launched T times (a step of all environments) and E·M times (a minibatch) is one CUDA graph each, which finds
its row by a counter on the device. One graph of the whole iteration would save the gaps between replays, some
microseconds each, and cost a capture that grows with the iteration: 10 epochs of 1024 minibatches are a million
kernels. On any other device the same functions are called instead of replayed; that is how they are tested.

Nothing is handed to `torch.compile`, though steps and losses trace as whole graphs (a test says so). It would fuse the
elementwise kernels inside a replay, but it costs each job tens of seconds before its first metrics, and needs a C
compiler on the host. Whether long jobs gain from it is to be measured on a GPU, which nobody has done.

Randomness: three torch generators on the device, `actions`, `minibatches` and `env`, each seeded from the NumPy stream
of its name. An iteration draws noise [T, N, columns], then uniforms for resets [T, N, draws], then keys [E, T·N] whose
order is the order of rows. No graph draws anything.
"""
