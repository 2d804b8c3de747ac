"""Every bug class that union filesystems are known for, and the tests that would notice it here.

A number is the class, by which cases of `tests.differential` are called too ("07 unlink of a new file"). A line says
what must be so; after it stand the tests, as a file and a function, or as a case. Where nothing can go wrong, a
sentence says why. That what is named exists, and that every numbered case is listed, is tested below.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.differential import attributes, data, names

CASES: Final = {case.name for module in (names, data, attributes) for case in module.CASES}


class Pitfall(NamedTuple):
    """One class of bugs."""

    rule: str
    """What must be so."""
    cases: str = ""
    """How the names of cases of the comparison with the kernel begin: the number, two digits and a space."""
    tests: tuple[str, ...] = ()
    """``FILE::FUNCTION`` below ``tests/``."""
    why_not: str = ""
    """Why it cannot happen, or what a FUSE server cannot do."""


PITFALLS: Final[dict[int, Pitfall]] = {
    1: Pitfall(
        "a lower or merged directory moves by a redirect, or EXDEV and nothing changed",
        "01 ",
        ("core/test_rename.py::test_a_redirect_that_would_be_too_long_changes_nothing",),
    ),
    2: Pitfall(
        "a new directory that moves to where a lower one was becomes opaque",
        "02 ",
        ("core/test_rename.py::test_a_new_directory_under_a_name_of_the_layers_below_is_opaque",),
    ),
    3: Pitfall(
        "renames over and away from whiteouts leave nothing behind (fuse-overlayfs#274, #327, #354)",
        "03 ",
        ("core/test_rename.py::test_a_directory_over_a_whiteout_leaves_nothing_where_it_was",),
    ),
    4: Pitfall("a directory that holds whiteouts alone is empty (fuse-overlayfs#93)", "04 "),
    5: Pitfall("such a directory can be removed, and one that was open afterwards is still used", "05 "),
    6: Pitfall(
        "what was removed stays so when its name is made again (fuse-overlayfs#271, #324, #478)",
        "06 ",
        ("cli/test_users.py::test_what_a_user_deleted_stays_deleted",),
    ),
    7: Pitfall("no whiteout for what no lower layer has (fuse-overlayfs#327)", "07 "),
    8: Pitfall(
        "what replaces a whiteout belongs to the caller, with the group and ACL that the directory gives",
        "08 ",
        ("core/test_acl.py::test_an_object_over_a_whiteout_inherits_as_any_other",),
    ),
    9: Pitfall(
        "hard links stay one file with an index; without, the link breaks and no origin is claimed",
        "09 ",
        ("core/test_copyup.py::test_the_copy_of_a_broken_hard_link_has_no_origin",),
    ),
    10: Pitfall(
        "link counts are those of the union and never underflow (fuse-overlayfs#192, #435)",
        "10 ",
        ("core/test_excess.py::test_a_link_count_that_makes_no_sense_is_counted_instead",),
    ),
    11: Pitfall(
        "inode numbers last, and are unique over several filesystems (fuse-overlayfs#432)",
        tests=(
            "mounted/test_known_bugs.py::test_numbers_stay_whatever_happens_to_a_file",
            "cli/test_overlay_form.py::test_numbers_are_unique_over_two_file_systems",
        ),
    ),
    12: Pitfall(
        "a listing shows the numbers of a stat (fuse-overlayfs#391)",
        tests=(
            "core/test_readdir.py::test_the_numbers_are_those_of_a_stat",
            "fuse/test_listing.py::test_a_listing_shows_the_number_of_a_link_that_a_copy_up_broke",
        ),
    ),
    13: Pitfall(
        "who had a lower file open for reading reads what is written later (moby#31587)",
        "13 ",
        ("mounted/test_coherence.py::test_watches_and_descriptors_go_on_under_both",),
    ),
    14: Pitfall(
        "a shared mapping shows the first change; the kernel's does not",
        tests=("mounted/test_coherence.py::test_a_mapping_shows_a_first_change_that_the_kernel_hides",),
    ),
    15: Pitfall(
        "no old size, no tail of zeros after a copy-up (fuse-overlayfs#127, #134, #475)",
        "15 ",
        ("mounted/test_fsx.py::test_every_way_to_the_data_shows_the_same",),
        "writes are never delayed: the option writeback is accepted and has no effect",
    ),
    16: Pitfall(
        "a running program cannot be written to, one that is written does not run; Linux 6.18's overlayfs agrees",
        tests=("mounted/test_known_bugs.py::test_a_program_that_runs_is_busy_and_one_that_is_written_does_not_run",),
    ),
    17: Pitfall(
        "reading leaves the access times of lower files alone",
        tests=("core/test_files.py::test_reading_a_lower_file_leaves_its_access_time_alone",),
    ),
    18: Pitfall(
        "a copy is made in the one order in which each step leaves the others' work alone",
        "18 ",
        ("core/test_copyup.py::test_owner_and_set_id_bits",),
    ),
    19: Pitfall(
        "capabilities and set-id bits outlast a copy-up, and go with a write or chown (moby#42655)",
        "19 ",
        ("core/test_metacopy.py::test_data_copied_up_later_keep_capability_and_set_id_bits",),
    ),
    20: Pitfall(
        "chown and writes by ordinary users take set-id bits (fuse-overlayfs#127)",
        "20 ",
        ("core/test_files.py::test_a_write_by_an_ordinary_user_drops_set_id_bits",),
        "chown(path, -1, -1) sends no request to a FUSE server and clears nothing; the README says so",
    ),
    21: Pitfall(
        "ACLs and security attributes are copied or the copy fails, others may be lost, private ones never copied",
        "21 ",
        ("linux/test_attributes.py::test_a_copy_may_lose_what_the_target_cannot_hold_but_nothing_of_security",),
    ),
    22: Pitfall("attributes of any name and size, with the errors that their calls promise", "22 "),
    23: Pitfall(
        "parents are copied up as they are, and keep their times (fuse-overlayfs#470)",
        "23 ",
        ("core/test_copyup.py::test_parents_get_the_lowers_modes_owners_and_times",),
    ),
    24: Pitfall(
        "directories that allow nothing work, and are never seen wider (fuse-overlayfs#307, #399, #414)",
        "24 ",
        (
            "mounted/test_other_users.py::test_a_copy_is_never_more_open_than_the_original_on_the_way_up",
            "core/test_rootless.py::test_a_directory_is_looked_at_and_changed_whatever_its_mode",
        ),
    ),
    25: Pitfall("the umask counts unless a default ACL does, and the work directory has none", "25 "),
    26: Pitfall(
        "in a sticky directory the owners of the union count",
        tests=("mounted/test_other_users.py::test_every_answer_is_that_of_a_plain_directory",),
    ),
    27: Pitfall("holes stay holes", "27 ", ("linux/test_filecopy.py::test_holes_are_skipped_and_kept",)),
    28: Pitfall("offsets beyond 4 GiB", tests=("mounted/test_known_bugs.py::test_offsets_and_sizes_have_64_bits",)),
    29: Pitfall("an open that truncates copies no data", "29 "),
    30: Pitfall(
        "appends go to the end",
        "30 ",
        ("fuse/test_passthrough.py::test_the_size_after_an_append_is_right_at_once",),
    ),
    31: Pitfall("opens of whatever there is, in every way, answer as they should", "31 "),
    32: Pitfall("truncation by name, by descriptor, of what has no name any more", "32 "),
    33: Pitfall(
        "a removed file that is open lives on",
        "33 ",
        ("fuse/test_passthrough.py::test_an_unlinked_file_goes_on_in_passthrough",),
    ),
    34: Pitfall(
        "one copy for all who need it, and nobody else waits (unionfs-fuse#70)",
        tests=("cli/test_concurrent_opens.py::test_one_copy_for_all_openers_and_no_wait_for_others",),
    ),
    35: Pitfall(
        "after a crash each name is old or new, and the next mount clears away",
        tests=(
            "mounted/test_crash.py::test_a_killed_daemon_leaves_whole_files",
            "mounted/test_crash.py::test_a_mount_after_a_crash_takes_the_layers_over",
            "mounted/test_power_cut.py::test_a_copy_up_is_whole_or_not_there",
        ),
    ),
    36: Pitfall(
        "full disks, faults and refusals at any step reach the caller and change nothing; a retry works",
        tests=(
            "core/test_faults.py::test_a_failure_at_any_step_changes_nothing",
            "mounted/test_limits.py::test_a_full_upper_layer",
            "mounted/test_faults.py::test_a_quota_that_is_used_up",
            "mounted/test_faults.py::test_an_upper_that_becomes_read_only",
            "mounted/test_faults.py::test_a_lower_layer_on_a_disk_that_cannot_be_read",
            "mounted/test_faults.py::test_the_blocks_that_a_filesystem_reserves_are_not_for_users_of_a_mount",
        ),
    ),
    37: Pitfall(
        "a listing is fixed while it is read, and a big tree can be removed (fuse-overlayfs#46, #260, #291)",
        tests=(
            "core/test_readdir.py::test_a_listing_is_fixed_until_it_is_rewound",
            "mounted/test_limits.py::test_rm_of_a_large_directory_finishes",
            "fuse/test_listing.py::test_two_readers_and_a_remover_get_along",
        ),
    ),
    38: Pitfall(
        "a listing that the kernel keeps is dropped when it is wrong",
        tests=(
            "fuse/test_listing.py::test_a_directory_is_emptied_while_it_is_read",
            "mounted/test_limits.py::test_eight_processes_leave_what_they_leave_on_a_plain_directory",
        ),
    ),
    39: Pitfall(
        "offsets in a listing are good as long as it is open",
        tests=("fuse/test_listing.py::test_the_dots_come_first_and_offsets_grow",),
    ),
    40: Pitfall("whiteouts are never seen", "40 ", ("core/test_readdir.py::test_whiteouts_are_never_listed",)),
    41: Pitfall("opaque directories and redirects of middle layers count", "41 "),
    42: Pitfall("only directories merge; whatever else is in between ends it", "42 "),
    43: Pitfall(
        "locks outlast a copy-up",
        tests=("mounted/test_locks.py::test_who_waits_for_a_lock_gets_it_after_the_copy_up",),
    ),
    44: Pitfall(
        "a watch set before a copy-up goes on (moby#11705)",
        tests=("mounted/test_coherence.py::test_watches_and_descriptors_go_on_under_both",),
    ),
    45: Pitfall(
        "append-only and immutable files stay so",
        tests=("mounted/test_file_flags.py::test_flags_are_enforced_and_last",),
    ),
    46: Pitfall(
        "a sync reaches the upper layer",
        tests=(
            "core/test_files.py::test_sync_is_asked_only_of_what_was_written",
            "core/test_files.py::test_nothing_is_synced_where_that_was_asked_for",
            "fuse/test_listing.py::test_a_directory_is_synced",
        ),
        why_not="syncfs sends no request to a FUSE server; and of a writeback error before the unmount no call tells a "
        "process of one without writing everything through",
    ),
    47: Pitfall(
        "layers in each other, in use, or on two filesystems are refused (fuse-overlayfs#364, #393)",
        tests=(
            "cli/test_bad_input.py::test_one_line",
            "cli/test_bad_input.py::test_work_on_another_file_system",
            "cli/test_bad_input.py::test_what_a_kernel_mount_writes_in",
            "cli/test_lifecycle.py::test_the_upper_of_a_live_mount_is_refused",
        ),
    ),
    48: Pitfall(
        "layers that are not those of the upper are refused or not merged, never wrong",
        tests=(
            "mounted/test_known_bugs.py::test_an_upper_of_other_layers_is_refused_with_an_index",
            "core/test_hostile.py::test_a_layer_that_changes_beneath_the_union_gives_errors_and_no_more",
        ),
    ),
    49: Pitfall(
        "two files that claim one origin are two files",
        tests=(
            "core/test_duplicates.py::test_two_copies_of_one_lower_file_are_two_files",
            "core/test_duplicates.py::test_hard_links_of_two_copies_are_not_mixed_up",
            "core/test_duplicates.py::test_two_directories_with_one_redirect_are_two_directories",
        ),
    ),
    50: Pitfall(
        "any character in a name, a path, an option",
        "50 ",
        ("core/test_options_oracle.py::test_a_layer_of_this_name", "cli/test_overlay_form.py::test_layers_of_any_name"),
    ),
    51: Pitfall("times to the nanosecond, of symlinks too", "51 "),
    52: Pitfall(
        "an owner outside of the map is EOVERFLOW and not somebody else",
        tests=("core/test_owners.py::test_ids_outside_of_the_map_overflow",),
    ),
    53: Pitfall("devices, fifos, sockets and symlinks are copied up as what they are", "53 "),
    54: Pitfall(
        "free space is the upper layer's",
        tests=("mounted/test_known_bugs.py::test_the_space_is_that_of_the_upper_layer",),
        why_not="that two mounts share an f_fsid: the kernel gives each FUSE mount its own",
    ),
    55: Pitfall(
        "layers on filesystems with less than all: no handles, other marks, no devices",
        tests=(
            "mounted/test_known_bugs.py::test_layers_may_lie_on_a_fuse_mount",
            "core/test_rootless.py::test_an_index_is_refused_where_files_cannot_be_opened_by_handle",
            "core/test_rename.py::test_whiteout_marks_where_a_rename_cannot_make_the_device",
        ),
    ),
}


@cache
def functions(file: str) -> set[str]:
    tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}


@pytest.mark.parametrize("number", PITFALLS)
def test_what_is_named_is_there(number: int) -> None:
    pitfall = PITFALLS[number]
    for test in pitfall.tests:
        file, _, function = test.partition("::")
        assert function.startswith("test_")
        assert function in functions(file)
    if pitfall.cases:
        assert any(name.startswith(pitfall.cases) for name in CASES)
        assert int(pitfall.cases) == number
    assert pitfall.cases or pitfall.tests or pitfall.why_not


def test_no_number_is_left_out() -> None:
    assert list(PITFALLS) == list(range(1, 56))
    numbered = {int(found[0]) for name in CASES if (found := re.match(r"\d\d", name))}
    assert numbered == {number for number, pitfall in PITFALLS.items() if pitfall.cases}
