"""Which predicted ages are doubted where nothing is known about the images."""

import numpy as np
import pytest

from afad_tfdata.models import output_checks


@pytest.mark.parametrize(
    "ages",
    [
        np.linspace(0.1, 0.7, 9),  # Shares of 100 years.
        np.linspace(-2, 2.2, 9),  # Mean subtracted, divided by the deviation.
        np.linspace(150, 700, 9),  # Months.
    ],
)
def test_ages_that_are_no_years_are_doubted(ages):
    assert "is the output in years" in output_checks.doubt_about_ages(ages)


@pytest.mark.parametrize(
    "ages",
    [
        np.linspace(1, 16, 9),  # Children.
        np.array([-3.0, 1, *np.linspace(20, 60, 9), 125]),  # A few are wrong.
        np.full(3, 0.2),  # Too few to show anything.
    ],
)
def test_other_ages_are_not(ages):
    assert output_checks.doubt_about_ages(ages) == ""
