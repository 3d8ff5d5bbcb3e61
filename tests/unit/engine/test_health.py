"""When an engine is relied upon."""

from asr_service.engine.client import _MAX_ATTEMPTS
from asr_service.engine.health import Circuit


def test_deaths_that_are_far_apart_do_not_count_together() -> None:
    circuit = Circuit(deaths=3, within_s=10)
    for now_s in (0, 6, 12, 18, 24):
        circuit.died(now_s)
        assert not circuit.is_open


def test_deaths_that_come_together_open_it_and_later_ones_keep_it_open() -> None:
    circuit = Circuit(deaths=3, within_s=10)
    states = []
    for now_s in (0, 5, 10, 100):
        circuit.died(now_s)
        states.append(circuit.is_open)
    assert states == [False, False, True, True]


def test_what_was_before_it_closed_is_forgotten() -> None:
    circuit = Circuit(deaths=2, within_s=10)
    circuit.died(0)
    circuit.died(1)
    circuit.close()
    circuit.died(2)
    assert not circuit.is_open
    circuit.died(3)
    assert circuit.is_open


def test_one_window_that_kills_engines_does_not_open_it() -> None:
    """It is failed at its fifth death; a service that has survived that should go on."""
    assert Circuit().deaths > _MAX_ATTEMPTS
