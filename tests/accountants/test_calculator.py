import math
import subprocess
import sys

import pytest

from lightning_priv.accountants import calibrate_noise, epsilon
from lightning_priv.accountants.calculator import solve_budget
from lightning_priv.errors import BudgetExceededError

RUN = {"noise_multiplier": 1.0, "sample_rate": 0.01, "steps": 1000}


def test_each_quantity_from_the_others():
    answer = solve_budget(**RUN, delta=1e-5)
    assert answer.solved_for == "epsilon"
    assert answer.epsilon == epsilon([(1.0, 0.01, 1000)], 1e-5) == pytest.approx(1.8282, abs=1e-4)
    assert answer.epsilon_rdp == pytest.approx(2.1014, abs=1e-4)
    assert answer.epsilon_gdp_approximation < answer.epsilon
    for unknown in ("noise_multiplier", "sample_rate", "steps", "delta"):
        known = {**RUN, "epsilon": 1.8283, "delta": 1e-5}
        expected = known.pop(unknown)
        answer = solve_budget(**known)
        assert answer.solved_for == unknown
        assert getattr(answer, unknown) == pytest.approx(expected, rel=1e-3)
        assert answer.target_epsilon == 1.8283
        assert answer.epsilon <= 1.8283
        spent = epsilon([(answer.noise_multiplier, answer.sample_rate, answer.steps)], answer.delta)
        assert answer.epsilon == spent


def test_sizes_stand_for_rate_steps_and_delta():
    answer = solve_budget(
        epsilon=8, dataset_size=50_000, batch_size=5000, epochs=30, accountant="rdp"
    )
    assert (answer.sample_rate, answer.steps, answer.delta) == (0.1, 300, 2e-6)
    assert answer.noise_multiplier == pytest.approx(calibrate_noise(8, 2e-6, 0.1, 300, "rdp"), 1e-5)
    assert answer.epochs == pytest.approx(30)
    assert answer.expected_batch == pytest.approx(5000)


def test_epochs_are_rounded_up_to_whole_steps():
    known = {"noise_multiplier": 1.0, "delta": 1e-5, "accountant": "rdp"}
    assert solve_budget(**known, sample_rate=1 / 6, epochs=30).steps == 180
    assert solve_budget(**known, sample_rate=0.3, epochs=1).steps == 4
    assert solve_budget(**known, sample_rate=0.3, epochs=0).epsilon == 0


def test_spent_steps_count():
    spent = [(1.0, 0.01, 500)]
    answer = solve_budget(**{**RUN, "steps": 500}, delta=1e-5, spent=spent)
    assert answer.epsilon == epsilon([(1.0, 0.01, 1000)], 1e-5)
    assert answer.spent_epsilon == epsilon(spent, 1e-5)
    with pytest.raises(BudgetExceededError, match="has spent"):
        solve_budget(epsilon=1.0, sample_rate=0.01, steps=10, delta=1e-5, spent=spent)


def test_only_the_central_limit_is_not_guaranteed():
    assert solve_budget(**RUN, delta=1e-5, accountant="rdp").guaranteed
    assert not solve_budget(**RUN, delta=1e-5, accountant="gdp").guaranteed
    whole = {**RUN, "sample_rate": 1.0}
    assert solve_budget(**whole, delta=1e-5, accountant="gdp").guaranteed


def test_without_noise_or_steps():
    assert solve_budget(**{**RUN, "noise_multiplier": 0.0}, delta=1e-5).epsilon == math.inf
    assert solve_budget(**{**RUN, "steps": 0}, epsilon=1.0).delta == 0.0
    assert solve_budget(**{**RUN, "noise_multiplier": 0.0}, epsilon=1.0).delta == 1.0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "epsilon and noise_multiplier and sample_rate and steps are left open"),
        ({**RUN, "epsilon": 1.0, "delta": 1e-5}, "nothing is left open"),
        (RUN, "delta is missing"),
        ({**RUN, "delta": 1e-5, "epochs": 3}, "both steps and epochs"),
        ({**RUN, "delta": 1e-5, "dataset_size": 9, "batch_size": 3}, "both sample_rate and batch"),
        ({"batch_size": 3}, "give dataset_size too"),
        ({"batch_size": 10, "dataset_size": 9}, "up to dataset_size 9"),
        ({"dataset_size": 0}, "dataset_size is 0"),
        ({"epsilon": 1, "noise_multiplier": 1, "epochs": 3, "delta": 1e-5}, "epochs become steps"),
        ({**RUN, "steps": 1.5, "delta": 1e-5}, "whole number"),
        ({**RUN, "noise_multiplier": -1.0, "delta": 1e-5}, "noise_multiplier"),
        ({**RUN, "epsilon": -1.0}, "epsilon is -1.0"),
        ({**RUN, "delta": 1e-5, "accountant": "x"}, "accountant is 'x'"),
    ],
)
def test_wrong_questions(given, message):
    with pytest.raises(ValueError, match=message):
        solve_budget(**given)


def test_no_torch_and_no_opacus():
    code = (
        "import sys\n"
        "from lightning_priv.accountants.calculator import solve_budget\n"
        "assert 'dp_accounting' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "solve_budget(epsilon=2.0, sample_rate=0.01, steps=100, delta=1e-5)\n"
        "heavy = {'torch', 'opacus', 'lightning', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert 'dp_accounting' in sys.modules and not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
