"""Ridge regression against closed forms and least squares."""

from __future__ import annotations

import numpy as np
import pytest

from fusion3d.errors import ConfigError
from fusion3d.evaluation.ridge import Decomposition, fit_ridge


def sample(rows: int = 40, cols: int = 5, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, cols)) * rng.uniform(0.1, 100, cols) + rng.normal(size=cols) * 50
    return x, (x - x.mean(axis=0)) / x.std(axis=0) @ rng.normal(size=cols) + 7.0 + rng.normal(scale=noise, size=rows)


def augmented(x: np.ndarray, y: np.ndarray, weights: np.ndarray, penalty: float, at: np.ndarray) -> np.ndarray:
    """Predictions of the ridge model by least squares on a matrix with rows sqrt(penalty) for each coefficient."""
    weights = weights / weights.mean()
    mean = weights @ x / weights.sum()
    scale = np.sqrt(weights @ (x - mean) ** 2 / weights.sum())
    design = np.column_stack([np.ones(len(x)), (x - mean) / scale]) * np.sqrt(weights)[:, None]
    below = np.sqrt(penalty) * np.eye(x.shape[1] + 1)[1:]
    solution = np.linalg.lstsq(np.vstack([design, below]), np.concatenate([np.sqrt(weights) * y, np.zeros(x.shape[1])]))[0]
    return np.column_stack([np.ones(len(at)), (at - mean) / scale]) @ solution


@pytest.mark.parametrize(("rows", "cols"), [(40, 5), (12, 60), (20, 20)])
@pytest.mark.parametrize("weighted", [False, True])
def test_ridge_is_least_squares_on_the_augmented_matrix(rows, cols, weighted):
    x, y = sample(rows, cols)
    weights = np.random.default_rng(1).uniform(0.2, 3.0, rows) if weighted else np.ones(rows)
    found = Decomposition(x, y, weights).ridge(3.7)
    at = sample(9, cols, seed=5)[0]
    np.testing.assert_allclose(found.predict(at), augmented(x, y, weights, 3.7, at), rtol=1e-8)


def test_without_a_penalty_it_is_ordinary_least_squares():
    x, y = sample()
    expected = np.linalg.lstsq(np.column_stack([np.ones(40), x]), y)[0]
    np.testing.assert_allclose(Decomposition(x, y).ridge(0.0).predict(x), np.column_stack([np.ones(40), x]) @ expected, rtol=1e-8)


def test_one_feature_by_hand():
    """x = -1, 0, 1 (variance 2/3), y = 1, 2, 6: standardised X'X = 3, X'y = 5 / sqrt(2/3), penalty 3 halves the slope 2.5."""
    found = Decomposition(np.array([[-1.0], [0.0], [1.0]]), np.array([1.0, 2.0, 6.0])).ridge(3.0)
    np.testing.assert_allclose(found.predict(np.array([[-1.0], [0.0], [2.0]])), [1.75, 3.0, 5.5])


def test_infinite_penalty_is_the_mean_and_a_large_intercept_is_not_shrunk():
    x, y = sample()
    np.testing.assert_allclose(Decomposition(x, y + 1e4).ridge(1e12).predict(x), (y + 1e4).mean(), rtol=1e-9)


def test_constant_features_say_nothing():
    x, y = sample()
    odd = np.column_stack([x, np.full(40, 3.3), np.zeros(40)])
    new = np.column_stack([x[:4] + 1, np.full(4, 99.0), np.full(4, 99.0)])
    np.testing.assert_allclose(Decomposition(odd, y).ridge(1.0).predict(new), Decomposition(x, y).ridge(1.0).predict(x[:4] + 1))


def test_integer_weights_are_repeated_rows():
    x, y = sample(15, 3)
    times = np.random.default_rng(2).integers(1, 4, 15)
    repeated = Decomposition(np.repeat(x, times, axis=0), np.repeat(y, times)).ridge(2.0 * times.sum())
    np.testing.assert_allclose(Decomposition(x, y, times.astype(float)).ridge(2.0 * 15).predict(x), repeated.predict(x))


def test_left_out_residuals_are_those_of_models_without_the_row():
    """With features standardised as on all rows; weights stay those of the row in the whole."""
    x, y = sample(12, 3)
    penalty = 2.0
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    expected = []
    for row in range(12):
        kept = np.arange(12) != row
        design = np.column_stack([np.ones(11), standard[kept]])
        solution = np.linalg.solve(design.T @ design + np.diag([0, *[penalty] * 3]), design.T @ y[kept])
        expected.append(y[row] - np.array([1, *standard[row]]) @ solution)
    np.testing.assert_allclose(Decomposition(x, y).left_out_residuals(penalty), expected)


def test_generalised_error_by_its_definition():
    x, y = sample(15, 4)
    standard = np.column_stack([np.ones(15), (x - x.mean(axis=0)) / x.std(axis=0)])
    hat = standard @ np.linalg.solve(standard.T @ standard + np.diag([0.0, 5.0, 5.0, 5.0, 5.0]), standard.T)
    expected = 15 * ((y - hat @ y) ** 2).sum() / (15 - np.trace(hat)) ** 2
    assert Decomposition(x, y).generalised_error(5.0) == pytest.approx(expected)


@pytest.mark.parametrize("groups", [None, np.arange(200) // 10])
def test_penalty_is_small_for_a_clear_signal_and_large_for_none(groups):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 50))
    clear = fit_ridge(x, x @ rng.normal(size=50) + rng.normal(scale=0.1, size=200), groups=groups)
    none = fit_ridge(x, rng.normal(size=200), groups=groups)
    assert clear.ridge.penalty < 20 < 1000 < none.ridge.penalty
    assert np.abs(none.ridge.coefficients).sum() < 0.1 * np.abs(clear.ridge.coefficients).sum()


def test_residuals_are_held_out():
    """With more features than rows, residuals in training would vanish."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 200)), rng.normal(size=40)
    for groups in (None, np.arange(40) // 4):
        assert fit_ridge(x, y, groups=groups, penalties=np.array([1e-3])).residuals.std() > 0.5


def test_grouped_folds_choose_more_shrinkage_when_groups_share_their_error():
    """Rows of a group are copies: a split inside a group sees the answer and would not shrink."""
    rng = np.random.default_rng(3)
    x, y = np.repeat(rng.normal(size=(20, 60)), 5, axis=0), np.repeat(rng.normal(size=20), 5)
    grouped = fit_ridge(x, y, groups=np.repeat(np.arange(20), 5)).ridge.penalty
    assert grouped > 100 * fit_ridge(x, y, groups=np.random.default_rng(0).permutation(100)).ridge.penalty


def test_predictions_do_not_depend_on_what_is_predicted_with_them():
    x, y = sample(40, 30)
    found = Decomposition(x, y).ridge(1.0)
    np.testing.assert_array_equal(found.predict(x), np.array([found.predict(row[None])[0] for row in x]))
    np.testing.assert_array_equal(found.predict_bands(x.T.reshape(30, 5, 8)).ravel(), found.predict(x))


@pytest.mark.parametrize(
    ("x", "y", "weights", "text"),
    [
        (np.zeros((2, 1)), np.zeros(2), None, "at least 3"),
        (np.zeros((4, 1)), np.zeros(3), None, "do not match"),
        (np.full((4, 1), np.nan), np.zeros(4), None, "finite"),
        (np.zeros((4, 1)), np.zeros(4), np.zeros(4), "positive"),
    ],
)
def test_unusable_input_is_refused(x, y, weights, text):
    with pytest.raises(ConfigError, match=text):
        fit_ridge(x, y, weights=weights)


def test_other_number_of_features_is_refused():
    x, y = sample()
    with pytest.raises(ConfigError, match="5 features, not 4"):
        Decomposition(x, y).ridge(1.0).predict(x[:, :4])


def test_constant_target_and_constant_features():
    found = fit_ridge(np.ones((5, 3)), np.full(5, 4.0), groups=np.arange(5))
    np.testing.assert_allclose(found.ridge.predict(np.zeros((2, 3))), 4.0)
    np.testing.assert_allclose(found.residuals, 0.0)
