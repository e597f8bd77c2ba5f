import jax
import pytest

from jaxdiff.chips import CHIPS, peak_flops


def test_a_device_s_peak_is_found_by_jax_s_name_of_it():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == pytest.approx(989.4e12)
    assert peak_flops(jax.devices("cpu")[0].device_kind) is None


@pytest.mark.parametrize("name", CHIPS)
def test_data_sheets_are_self_consistent(name):
    chip = CHIPS[name]
    assert 0.9 < chip.usable_bytes / chip.hbm_bytes < 1
    # Of all of these, between 100 and 600 operations take as long as moving a byte.
    assert 100 < chip.bf16_flops / chip.hbm_bandwidth < 600
    assert chip.slow_bandwidth < chip.link_bandwidth < chip.hbm_bandwidth
