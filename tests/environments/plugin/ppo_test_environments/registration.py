import gymnasium

PACKAGE = "ppo_test_environments"

ENVIRONMENTS = {
    "walks:Walk": 20,
    "walks:Slow": 20,
    "walks:Chatty": 20,
    "walks:SharedBuffer": 20,
    "walks:Unrepeatable": 20,
    "walks:ManyFeatures": 20,
    "values:ConstantReward": 10,
    "values:Ramp": 10,
    "values:ProbeConstant": None,
    "values:ProbeObservation": None,
    "values:ProbeDiscount": None,
    "values:ProbeAction": None,
    "values:ProbeObservationAction": None,
    "cues:Dither": None,
    "pictures:ProbeImage": None,
    "pictures:ProbeImageDict": None,
    "memory:CartPolePositions": 500,
    "memory:TMaze": 60,
    "edges:Edge": 20,
    "space_kinds:DictObservation": 20,
    "space_kinds:TupleObservation": 20,
    "space_kinds:MultiDiscreteAction": 20,
    "space_kinds:MatrixAction": 20,
    "space_kinds:MultiBinaryAction": 20,
    "space_kinds:OffsetAction": 20,
    "space_kinds:AsymmetricAction": 20,
    "space_kinds:MatrixBoxAction": 20,
    "space_kinds:DictAction": 20,
    "space_kinds:TupleAction": 20,
    "space_kinds:TextAction": 20,
    "masking:Masked": 20,
    "masking:MaskedMulti": 20,
    "masking:MaskedBits": 20,
    "faulty:RaisesInConstructor": 20,
    "faulty:RaisesInReset": 20,
    "faulty:RaisesInStep": 20,
    "faulty:ExitsInStep": 20,
    "faulty:NaNObservation": 20,
    "faulty:InfiniteObservation": 20,
    "faulty:HugeObservation": 20,
    "faulty:OutsideItsSpace": 20,
    "faulty:OutsideItsIntegers": 20,
    "faulty:NaNReward": 20,
    "faulty:InfiniteReward": 20,
    "faulty:NaNInReset": 20,
    "faulty:WrongShape": 20,
    "faulty:WrongType": 20,
    "faulty:ArrayReward": 20,
    "faulty:TextReward": 20,
    "faulty:NumberEnd": 20,
    "faulty:ShortStep": 20,
    "deadly:HangsInStep": 20,
    "deadly:HangsInReset": 20,
    "deadly:HangsWithLock": 20,
    "deadly:KillsItself": 20,
    "deadly:ExitsProcess": 20,
    "deadly:AllocatesInStep": 20,
    "deadly:HangsInClose": 20,
    "lasting:Curriculum": 20,
    "lasting:LateCurriculum": 20,
    "lasting:KeptCurriculum": 20,
    "lasting:SharedCurriculum": 20,
    "lasting:Closed": 20,
    "lasting:Hidden": 20,
    "lasting:GlobalRandom": 20,
    "lasting:ForgetsItsSeed": 20,
    "lasting:SampledActions": 10,
    "lasting:Clocked": 20,
    "switches:DoubleByDefault": 20,
    "switches:WithoutGradients": 20,
    "switches:SwitchesInStep": 20,
    "switches:SharedTensor": 20,
    "switches:SharedArrayLike": 20,
    "deadly:StartsDaemons": 20,
    "deadly:WritesMachineCode": 20,
}
"""Entry points within the package, and after how many steps an episode is truncated."""

CUES = ("Choice", "Choices", "Bits", "Masked", "Number", "Tuple", "Dict")
CUE_STEPS = 6

STATISTICS = ("Statistics", "KeptStatistics", "Opaque")

FOREIGN = {"NextStep": "next_step", "SameStep": "same_step", "Disabled": "disabled", "Unlabelled": "unlabelled"}


def register() -> None:
    """Registers all of them; what the entry point names."""
    for entry_point, limit in ENVIRONMENTS.items():
        gymnasium.register(
            f"test/{entry_point.partition(':')[2]}-v0", f"{PACKAGE}.{entry_point}", max_episode_steps=limit
        )
    for name in CUES:
        for suffix, forgotten in (("", False), ("Forgotten", True)):
            gymnasium.register(
                f"test/Cue{name}{suffix}-v0",
                f"{PACKAGE}.cues:Cue{name}",
                max_episode_steps=CUE_STEPS,
                kwargs={"forgotten": forgotten},
            )
    for kind in STATISTICS:
        gymnasium.register(
            f"test/{kind}-v0",
            f"{PACKAGE}.lasting:with_statistics",
            max_episode_steps=20,
            kwargs={"kind": kind},
        )
    for name, function in FOREIGN.items():
        gymnasium.register(
            f"test/{name}-v0",
            f"{PACKAGE}.walks:Walk",
            vector_entry_point=f"{PACKAGE}.foreign:{function}",
            max_episode_steps=20,
        )
