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
    "cli/test_pages.py::test_page_says_this_in_every_process": 2,
    "cli/test_without_torch.py::test_whatever_is_missing": 2,
    "compare/test_certified.py::test_what_convert_writes_fits_its_certificate": 4,
    "declare/test_layer_kinds.py::test_whatever_is_wrong_is_found": 2,
    "declare/test_mixture.py::test_whatever_is_wrong_is_found": 3,
    "edit/test_faults.py::test_a_limit_on_file_sizes_is_one_error_and_no_work_is_lost": 2,
    "edit/test_layout_pairs.py::test_every_layout_becomes_every_other": 4,
    "edit/test_libraries.py::test_a_config_that_was_lost_is_written_anew_from_the_certificate": 4,
    "edit/test_libraries.py::test_litgpt_computes_the_same_from_what_equals_its_own_conversion": 2,
    "edit/test_libraries.py::test_transformers_loads_what_went_through_another_layout": 2,
    "edit/test_libraries.py::test_what_litgpt_converts_is_read_and_is_the_same_model": 3,
    "edit/test_make.py::test_one_seed_is_one_model_in_every_layout": 2,
    "edit/test_make.py::test_settings_land_in_the_config_and_in_what_inspect_says": 2,
    "edit/test_make.py::test_what_is_made_is_what_was_declared": 4,
    "edit/test_memory.py::test_a_real_checkpoint_stays_within_the_bound": 3,
    "edit/test_resume.py::test_a_journal_that_lies_does_no_harm": 2,
    "edit/test_resume.py::test_a_partial_file_that_was_damaged_is_written_again": 3,
    "edit/test_split.py::test_lost_chunks_are_the_one_cause": 2,
    "edit/test_split.py::test_merging_what_was_split_is_the_identity": 3,
    "edit/test_stamp.py::test_a_stamped_checkpoint_fits_its_stamp": 4,
    "explain/test_demanded.py::test_a_wrong_shape_of_a_connector_names_its_tensor": 3,
    "families/test_clip_and_text_towers.py::test_every_lost_tensor_is_found": 2,
    "hostile/test_file_hostile.py::test_attack_gives_these_words_and_takes_little_room": 2,
    "hostile/test_heavy_files.py::test_containers_of_a_pickle_count_by_what_they_take": 3,
    "hostile/test_text_fuzz.py::test_any_config_beside_a_sound_file_leaves_it_known": 4,
    "loading/test_layouts.py::test_every_layout_gives_the_same_model": 2,
    "loading/test_model_dtypes.py::test_every_dtype_runs": 2,
    "loading/test_save.py::test_a_layout_is_enough_to_write_a_model": 4,
    "loading/test_save.py::test_a_saved_model_is_the_model_that_was_loaded": 4,
    "loading/test_stage.py::test_a_chain_equals_the_whole_model": 3,
    "loading/test_tensors.py::test_a_stream_is_what_convert_writes": 2,
    "models/resamplers/test_num_tokens.py::test_resamplers": 6,
    "models/test_copies.py::test_a_copy_is_the_same_model_with_weights_of_its_own": 4,
    "models/test_copies.py::test_a_pickle_holds_the_weights_and_little_more": 2,
    "models/test_copies.py::test_an_average_follows_the_model": 2,
    "models/test_elsewhere.py::test_in_bfloat16": 4,
    "models/test_elsewhere.py::test_on_another_device": 3,
    "models/test_kernels.py::test_a_model_with_weights_laid_out_is_copied": 2,
    "models/test_kernels.py::test_every_family_computes_the_same": 2,
    "models/test_loss.py::test_loss_and_gradients_equal_transformers": 2,
    "models/test_print.py::test_more_layers_make_no_more_lines": 4,
    "models/test_sizes.py::test_a_published_size_is_built_as_declared": 2,
    "models/test_taps.py::test_every_module_that_a_loss_reaches_is_seen": 2,
    "models/test_text.py::test_every_way_of_running": 4,
    "models/test_text.py::test_greedy_tokens": 4,
    "models/vlm/test_llava.py::test_it_equals_transformers": 2,
    "models/vlm/test_llava_kinds.py::test_it_equals_transformers": 2,
    "models/vlm/test_llava_onevision.py::test_every_way_of_running": 3,
    "models/vlm/test_panovlm.py::test_every_layout_is_the_same_model": 2,
    "models/vlm/test_panovlm.py::test_parts_of_transformers_put_together": 3,
    "models/vlm/test_prismatic.py::test_every_way_of_running_it": 2,
    "models/vlm/test_prismatic.py::test_timm_before_transformers": 2,
    "models/vlm/test_qwen_vl_models.py::test_every_way_of_running": 3,
    "models/vlm/test_qwen_vl_models.py::test_greedy_tokens": 2,
    "parity/test_given.py::test_what_does_not_fit_a_policy_is_said": 2,
    "parity/test_verify.py::test_a_planted_fault_is_found_at_its_stage": 2,
    "parity/test_verify.py::test_other_backends_compute_the_blocks": 3,
    "parity/test_verify_between.py::test_a_wrong_tensor_is_found_at_its_stage": 4,
    "run/test_generate.py::test_every_layout_gives_the_same_tokens": 3,
    "store/remote/test_deadline.py::test_a_server_that_never_ends_is_left": 3,
    "store/write/test_block_file.py::test_what_is_left_out_is_zeros": 2,
    "test_imports.py::test_a_header_verb_imports_nothing_heavy": 3,
    "test_imports.py::test_every_package_of_the_list_would_be_seen": 3,
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
