from ppo_client.cli.findings import findings_in_words, settings_of


def test_a_finding_is_told_with_what_to_try() -> None:
    data = {
        "iteration": 3,
        "findings": [
            {"code": "a", "message": "approx_kl is 0.2", "evidence": {}, "spec_patch": {"ppo": {"target_kl": 0.03}}},
            {"code": "b", "message": "nothing helps", "evidence": {}, "spec_patch": {}},
        ],
    }
    assert findings_in_words(data) == ["approx_kl is 0.2. Try --set 'ppo.target_kl=0.03'", "nothing helps"]


def test_a_schedule_is_one_setting() -> None:
    patch = {
        "ppo": {"learning_rate": {"kind": "linear", "initial": 0.1, "final": 0.0}},
        "policy": {"squash_output": True},
    }
    assert list(settings_of(patch)) == [
        'ppo.learning_rate={"kind":"linear","initial":0.1,"final":0.0}',
        "policy.squash_output=true",
    ]


def test_an_event_without_findings_has_no_words() -> None:
    assert findings_in_words({}) == findings_in_words({"findings": [1]}) == []
