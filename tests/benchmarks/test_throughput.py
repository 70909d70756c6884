import json
from dataclasses import asdict

import pytest

from benchmarks import throughput
from benchmarks.contestants import CONTESTANTS
from benchmarks.published import cleanrl_arguments, purejaxrl_config
from benchmarks.record import Record
from benchmarks.tasks import TASKS, Task, hyperparameters, training_spec
from benchmarks.throughput import compare, overview, present, rows, summary, with_start
from ppo_engine.presets import resolve
from ppo_engine.spec import TrainingSpec

TASK = Task("cartpole", "CartPole-v1", 8, 128, 4, 256, total_timesteps=4096)


def measured(contestant: str, speed: float, **more: float | None) -> Record:
    return {"contestant": contestant, "steps_per_second": speed, "core_share": 0.99, "return": None, **more}


RECORDS = [
    measured("ours", 1000.0, start_seconds=2.0),
    measured("sb3", 100.0, start_seconds=1.0),
    measured("raw", 4000.0),
    measured("sb3", 300.0, start_seconds=5.0),
    measured("ours", 3000.0, start_seconds=1.0),
    measured("raw", 4000.0),
    measured("ours", 2000.0, start_seconds=3.0),
    measured("sb3", 200.0, start_seconds=3.0),
    measured("raw", 5000.0),
]


def test_a_summary_holds_the_medians_and_their_ratios():
    contestants = summary(TASK, RECORDS)["contestants"]
    assert [contestants["ours"][name] for name in ("median", "min", "max")] == [2000.0, 1000.0, 3000.0]
    assert contestants["sb3"]["ratio"] == 10.0
    assert contestants["ours"]["share_of_raw"] == 0.5
    assert contestants["sb3"]["share_of_raw"] == 0.05
    assert contestants["raw"]["start_seconds"] is None


def test_a_share_of_the_core_drops_out_of_the_ratio_per_cpu_second():
    records = [measured("ours", 1000.0), {**measured("sb3", 100.0), "core_share": 0.495}]
    sb3 = summary(TASK, records)["contestants"]["sb3"]
    assert sb3["ratio"] == pytest.approx(10.0)
    assert sb3["ratio_per_cpu_second"] == pytest.approx(5.0)


def test_a_start_counts_for_as_long_as_it_took():
    # 1024 steps in the 2 s of the start, and the other 3072 at 1024 a second.
    assert with_start(1024.0, 2.0, TASK) == 4096 / (2 + 3)


def test_compilation_adds_to_our_start():
    ours = summary(TASK, RECORDS, compile_seconds=30.0)["contestants"]["ours"]
    assert ours["start_seconds"] == 2.0
    assert ours["with_start"] == pytest.approx(4096 / (2 + 3072 / 2000))
    assert ours["with_compile"] == pytest.approx(4096 / (32 + 3072 / 2000))


def test_the_table_has_a_row_for_each_contestant_and_one_for_our_first_time():
    lines = rows(summary(TASK, RECORDS, compile_seconds=30.0))
    assert [line[0] for line in lines] == ["ours", "ours, first time", "sb3", "raw"]
    assert lines[0][1:5] == ["2,000 (1,000 to 3,000)", "", "", "50%"]
    assert lines[1][5] == "32.0 s"
    assert lines[2][1:5] == ["200 (100 to 300)", "10.00×", "10.00×", "5%"]


def test_returns_are_the_median_of_those_there_are():
    answer = summary(TASK, [{**RECORDS[0], "return": value} for value in (1.0, None, 3.0)])
    assert rows(answer)[0][-1] == "2.0"


def test_the_overview_leaves_blank_who_did_not_take_part():
    answers = [summary(TASK, RECORDS), {**summary(TASKS["pendulum"], RECORDS[:1])}]
    _, _, first, second = overview(answers).splitlines()
    assert [cell.strip() for cell in first.split("|")[2:-1]] == ["2,000", "10.00×", "0.50×"]
    assert [cell.strip() for cell in second.split("|")[2:-1]] == ["1,000", "", ""]


def test_who_is_not_installed_is_left_out_with_a_sentence():
    there, absences = present(["ours", "sb3", "sbx", "raw"], TASK, {"stable-baselines3": "2.9.2", "sbx-rl": None})
    assert there == ["ours", "sb3", "raw"]
    assert absences == ["sbx is left out: sbx-rl is not installed; `make bench-peers` gets what the network gives."]


def test_purejaxrl_has_cart_pole_only():
    _, absences = present(["purejaxrl"], TASKS["pendulum"], {"gymnax": "0.0.9"})
    assert absences == ["purejaxrl is left out: it has no Pendulum-v1."]


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_a_minibatch_is_of_the_same_size_in_everyones_words(task):
    assert resolve(training_spec(task, seed=0)).ppo.batch_size == task.batch_size
    assert f"--num-minibatches={task.rows // task.batch_size}" in cleanrl_arguments(task, seed=0)
    assert purejaxrl_config(task)["NUM_MINIBATCHES"] * task.batch_size == task.rows
    assert hyperparameters(task)["batch_size"] == task.batch_size


def test_our_endless_run_differs_from_the_task_in_its_length_alone():
    task = TASKS["cartpole"]
    endless = training_spec(task, seed=0, total_timesteps=10**9)
    ppo = endless.ppo.model_copy(update={"total_timesteps": task.total_timesteps})
    assert endless.model_copy(update={"ppo": ppo}) == training_spec(task, seed=0)


def test_the_lunar_lander_is_trained_with_its_preset():
    task = TASKS["lunarlander"]
    preset = resolve(TrainingSpec.model_validate({"env": {"id": task.env_id}, "seed": 0}))
    ours = resolve(training_spec(task, seed=0, total_timesteps=preset.ppo.total_timesteps))
    assert (ours.ppo, ours.env, ours.policy, ours.normalize) == (
        preset.ppo,
        preset.env,
        preset.policy,
        preset.normalize,
    )


def test_a_task_survives_its_way_to_the_process_that_runs_it():
    task = TASKS["lunarlander"]
    assert training_spec(Task(**json.loads(json.dumps(asdict(task)))), seed=1) == training_spec(task, seed=1)


def test_every_contestant_that_is_no_peer_is_there_without_packages():
    there, _ = present(list(CONTESTANTS), TASK, {})
    assert there == ["ours", "ours-torch", "raw"]


@pytest.fixture
def runs(monkeypatch, tmp_path):
    """The runs that are asked for, in order; none of them is made, and CleanRL's second one fails."""
    asked = []

    def run(contestant, task, seed, *, cache):
        asked.append((contestant, seed))
        if (contestant, seed) == ("cleanrl", 1):
            raise RuntimeError("the command failed:\nNo module named tyro")
        return measured(contestant, 100.0)

    monkeypatch.setattr(throughput, "run", run)
    monkeypatch.setattr(throughput, "RESULTS", tmp_path)
    return asked


def test_the_order_alternates(runs):
    compare(TASK, ["ours", "sb3"], runs=3, cache="")
    assert runs == [("ours", 0), ("sb3", 0), ("sb3", 1), ("ours", 1), ("ours", 2), ("sb3", 2)]


def test_a_peer_that_fails_is_left_out(runs):
    records, failures = compare(TASK, ["ours", "cleanrl"], runs=3, cache="")
    assert [record["contestant"] for record in records] == ["ours", "ours", "ours"]
    assert failures == ["cleanrl failed and is left out: No module named tyro"]
    assert runs.count(("cleanrl", 2)) == 0
