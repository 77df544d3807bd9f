"""Hypothesis profiles, which cases are slow, and what the shell that starts the tests must not change."""

import signal
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "dovetail",
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("dovetail")

# A shell lets what it starts in the background ignore Ctrl-C, and all that is started from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests with many like cases that take long together: of so many cases the first runs in `make test`, all of
# them in `make test-slow`.
ONE_OF = {
    "cli/test_without_torch.py::test_whatever_is_missing": 2,
    "compare/test_certified.py::test_what_convert_writes_fits_its_certificate": 2,
    "edit/test_faults.py::test_a_limit_on_file_sizes_is_one_error_and_no_work_is_lost": 2,
    "edit/test_layout_pairs.py::test_every_layout_becomes_every_other": 2,
    "edit/test_libraries.py::test_a_config_that_was_lost_is_written_anew_from_the_certificate": 2,
    "edit/test_libraries.py::test_litgpt_computes_the_same_from_what_equals_its_own_conversion": 2,
    "edit/test_libraries.py::test_transformers_loads_what_went_through_another_layout": 2,
    "edit/test_libraries.py::test_what_litgpt_converts_is_read_and_is_the_same_model": 2,
    "edit/test_make.py::test_one_seed_is_one_model_in_every_layout": 2,
    "edit/test_make.py::test_what_is_made_is_what_was_declared": 2,
    "edit/test_memory.py::test_a_real_checkpoint_stays_within_the_bound": 3,
    "edit/test_stamp.py::test_a_stamped_checkpoint_fits_its_stamp": 2,
    "hostile/test_heavy_files.py::test_containers_of_a_pickle_count_by_what_they_take": 3,
    "hostile/test_text_fuzz.py::test_any_config_beside_a_sound_file_leaves_it_known": 2,
    "loading/test_layouts.py::test_every_layout_gives_the_same_model": 2,
    "loading/test_save.py::test_a_layout_is_enough_to_write_a_model": 2,
    "loading/test_save.py::test_a_saved_model_is_the_model_that_was_loaded": 2,
    "models/resamplers/test_num_tokens.py::test_resamplers": 3,
    "models/test_copies.py::test_a_copy_is_the_same_model_with_weights_of_its_own": 2,
    "models/test_copies.py::test_a_pickle_holds_the_weights_and_little_more": 2,
    "models/test_copies.py::test_an_average_follows_the_model": 2,
    "models/test_elsewhere.py::test_in_bfloat16": 2,
    "models/test_taps.py::test_every_module_that_a_loss_reaches_is_seen": 2,
    "models/test_text.py::test_every_way_of_running": 2,
    "models/test_text.py::test_greedy_tokens": 2,
    "models/vlm/test_llava_onevision.py::test_every_way_of_running": 2,
    "models/vlm/test_panovlm.py::test_parts_of_transformers_put_together": 3,
    "models/vlm/test_prismatic.py::test_timm_before_transformers": 2,
    "models/vlm/test_qwen_vl_models.py::test_every_way_of_running": 2,
    "parity/test_verify.py::test_other_backends_compute_the_blocks": 3,
    "store/remote/test_deadline.py::test_a_server_that_never_ends_is_left": 3,
    "test_imports.py::test_a_header_verb_imports_nothing_heavy": 3,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the cases that only `make test-slow` runs."""
    seen: Counter[str] = Counter()
    for item in items:
        test = item.nodeid.partition("[")[0].removeprefix("tests/")
        if step := ONE_OF.get(test):
            if seen[test] % step:
                item.add_marker(pytest.mark.slow)
            seen[test] += 1
