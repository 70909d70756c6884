import pickle

import pytest

from ppo_engine import errors


def all_errors(root: type[errors.EngineError]) -> list[type[errors.EngineError]]:
    return [root, *(error for child in root.__subclasses__() for error in all_errors(child))]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [error.code for error in all_errors(errors.EngineError)]
    assert len(codes) == len(set(codes)) == 14


@pytest.mark.parametrize("error", all_errors(errors.EngineError))
def test_errors_survive_pickling(error: type[errors.EngineError]) -> None:
    place = errors.EnvironmentPlace("Bad-v0", 3, 2, 17)
    fault = issubclass(error, errors.EnvironmentFault)
    raised = error("broke", place, "Traceback ...") if fault else error("broke")
    copy = pickle.loads(pickle.dumps(raised))
    assert type(copy) is error
    assert copy.args == raised.args
    assert str(copy) == str(raised)


def test_an_environments_fault_says_which_one_and_when() -> None:
    fault = errors.EnvironmentFailed("ValueError: no", errors.EnvironmentPlace("Bad-v0", 3, 2, 17), "Traceback ...")
    assert str(fault) == "Bad-v0, environment 3, episode 2, step 17: ValueError: no"
    assert fault.traceback_text == "Traceback ..."
