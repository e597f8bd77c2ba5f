import pytest

from jaxdiff.parallel import processes


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"NUM_PROCESSES": "two"}, "JAX_NUM_PROCESSES is 'two'"),
        ({"NUM_PROCESSES": "²"}, "JAX_NUM_PROCESSES is '²'"),
        ({"NUM_PROCESSES": ""}, "JAX_NUM_PROCESSES is ''"),
        ({"NUM_PROCESSES": "-1"}, "JAX_NUM_PROCESSES is '-1'"),
        ({"NUM_PROCESSES": "0"}, "JAX_NUM_PROCESSES is 0"),
        ({"NUM_PROCESSES": "9" * 5000}, "JAX_NUM_PROCESSES is"),
        ({"PROCESS_ID": "first"}, "JAX_PROCESS_ID is 'first'"),
        ({"NUM_PROCESSES": "2", "PROCESS_ID": "2"}, "JAX_PROCESS_ID is 2"),
        ({"COORDINATOR_ADDRESS": "localhost"}, "JAX_COORDINATOR_ADDRESS is 'localhost'"),
        ({"COORDINATOR_ADDRESS": "localhost:99999"}, "'localhost:99999'"),
        ({"COORDINATOR_ADDRESS": ":1234"}, "':1234'"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(environment, words, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    with pytest.raises(ValueError, match=words):
        processes.initialize(True)
    processes.initialize(False)  # nobody asks
