//! The one list of all laws.

/// Makes a test of every law, in a module `conformance`, for one [`Harness`](crate::Harness).
///
/// ```no_run
/// # struct MyHarness;
/// # impl solocron_testkit::Harness for MyHarness {
/// #     type Backend = solocron::lock::MemoryBackend;
/// #     async fn start() -> Self { Self }
/// #     fn connect(&self) -> Self::Backend { unimplemented!() }
/// # }
/// solocron_testkit::conformance!(MyHarness);
/// // Two forms of one backend need two names.
/// solocron_testkit::conformance!(other_form, MyHarness);
/// ```
#[macro_export]
macro_rules! conformance {
    ($harness:ty) => {
        $crate::conformance!(conformance, $harness);
    };
    ($module:ident, $harness:ty) => {
        mod $module {
            #[allow(unused_imports, reason = "a harness may be named by a full path")]
            use super::*;

            $crate::__laws!(tests $harness);
        }
    };
}

/// The list. Every `pub async fn` of a module of laws stands here; a test compares. `#[alone]`: it disturbs the store for others.
#[doc(hidden)]
#[macro_export]
macro_rules! __laws {
    ($what:ident $($harness:ty)?) => {
        $crate::__each_law! { $what [$($harness)?]
        everywhere {
            exclusion {
                a_held_key_excludes_other_clients,
                a_held_key_excludes_its_own_process,
                a_client_cannot_take_its_own_key_twice,
                a_released_key_is_free,
                keys_do_not_disturb_each_other,
                never_two_are_inside,
                no_update_is_lost,
                one_of_many_attempts_wins,
            }
            release {
                releasing_twice_is_harmless,
                a_release_after_the_lease_says_not_owner_every_time,
                a_late_release_does_not_free_the_successor,
                a_guard_that_lost_its_lock_is_released_as_not_owner,
                a_nonce_that_was_given_back_wins_nothing,
                a_renewal_that_crosses_a_release_revives_nothing,
                a_dropped_guard_frees_its_key,
                a_release_that_is_dropped_halfway_still_happens,
                a_dropped_release_of_a_claim_still_finishes_its_tick,
                a_node_that_settles_leaves_nothing_behind,
            }
            lease {
                a_lease_ends_after_its_ttl_and_not_before,
                a_renewed_lease_outlives_its_ttl,
                a_late_renewal_revives_nothing,
                a_renewal_does_not_touch_the_successor,
                renewals_answer_in_order,
                a_grant_is_valid_from_its_first_send,
                a_renewal_is_valid_from_its_send,
                a_dead_holder_is_followed_by_its_waiter,
                a_killed_process_is_followed_by_its_waiter,
                every_claimed_ttl_is_granted,
                a_ttl_is_never_shortened,
            }
            idempotence {
                the_same_nonce_gets_the_same_grant,
                the_same_nonce_gets_the_same_tick,
                a_resent_grant_counts_from_the_first_send,
                a_resend_extends_no_lease,
                a_revoked_nonce_wins_nothing,
                a_refusal_comes_first,
                a_revocation_frees_its_key,
                revoking_a_stranger_disturbs_nobody,
                a_lost_reply_is_found_again,
                a_lost_reply_to_a_claim_is_found_again,
                a_grant_whose_reply_is_lost_is_the_grant_of_its_nonce,
                an_acquisition_that_stays_unknown_is_taken_back,
                a_copy_that_arrives_after_a_refusal_wins_nothing,
                a_copy_that_arrives_after_the_release_wins_nothing,
                a_grant_that_comes_too_late_is_given_back,
                a_dropped_attempt_leaves_nothing_behind,
                a_dropped_claim_leaves_the_mark_where_it_was,
                a_dropped_wait_leaves_nothing_behind,
            }
            lost {
                an_expired_lease_is_told,
                #[alone] a_forgotten_lease_is_told,
                a_force_released_lease_is_told,
                a_replaced_lock_is_told,
                a_normal_release_is_no_loss,
                a_loss_before_anybody_listens_is_not_missed,
                a_lost_lock_stays_lost,
                max_runtime_ends_a_lease,
                a_lease_whose_renewals_hang_is_lost_in_time,
                one_failed_renewal_is_no_loss,
                a_check_fails_at_the_deadline_without_a_keeper,
                work_is_dropped_when_its_lock_is_lost,
                work_hands_back_its_value,
                #[alone] a_frozen_store_is_a_loss_in_time,
                #[alone] a_restart_makes_no_second_holder,
                #[alone] a_broken_connection_is_no_loss,
                a_loss_is_told_to_its_own_guard,
            }
            fencing {
                a_fence_grows_with_every_win,
                a_new_client_gets_a_higher_fence,
                a_resend_or_a_renewal_changes_no_fence,
                a_guard_has_one_fence,
                fences_follow_the_order_of_the_wins,
                #[alone] a_fence_grows_over_a_loss_of_memory,
                #[alone] a_fence_grows_over_a_restart,
            }
            enrolling {
                enrolling_begins_at_the_stores_now,
                enrolling_again_resets_nothing,
                a_changed_schedule_is_dated,
                a_key_that_was_not_enrolled_takes_no_claims,
                enrolling_disturbs_no_holder,
                many_jobs_enroll_in_one_call,
                without_marks_nothing_is_enrolled,
            }
            marks {
                a_tick_that_was_run_is_stale,
                a_running_tick_is_stale_and_not_busy,
                a_stale_tick_is_stale_under_a_plain_lock,
                another_tick_is_busy_and_not_behind,
                a_tick_from_the_future_is_early,
                an_unfinished_tick_goes_first,
                an_unclaimed_tick_goes_first_where_all_are_run,
                the_mark_moves_with_the_win,
                an_unfinished_tick_is_granted_a_bounded_number_of_times,
                the_tick_of_a_dead_holder_is_granted_again,
                an_abandoned_tick_is_reported_once,
                an_undo_restores_the_claim_before_it,
                an_undone_attempt_does_not_count,
                a_revocation_after_the_lease_restores_the_mark,
                a_finished_tick_is_not_undone,
                a_late_settlement_leaves_the_successors_tick_alone,
                a_run_that_ends_after_its_lease_is_done,
                a_run_cut_short_is_left_to_its_delivery,
                a_release_skips_up_to_the_stores_clock,
                a_skip_never_moves_the_mark_back,
                a_plain_lock_leaves_marks_alone,
                a_batch_answers_each_for_itself,
                each_tick_is_won_by_exactly_one,
                a_dropped_claim_guard_leaves_its_tick_unfinished,
                an_undone_claim_can_be_claimed_again,
                a_user_is_told_every_answer,
                #[alone] no_tick_of_before_a_loss_is_granted_again,
                #[alone] the_first_grant_after_a_loss_waits_for_the_longest_ttl,
                #[alone] the_epoch_tells_of_a_loss,
                #[alone] a_mark_survives_a_restart,
                #[alone] no_tick_of_before_a_restart_is_granted_again,
                a_mark_survives_its_clients,
            }
            waiting {
                a_wait_ends_at_its_timeout,
                a_wait_without_patience_takes_what_is_free,
                a_release_wakes_its_waiter,
                a_revocation_wakes_its_waiter,
                a_release_at_any_moment_is_not_missed,
                many_waiters_are_served_with_few_attempts,
                waiters_of_one_process_queue_in_order,
                a_waiter_that_leaves_is_not_in_the_way,
                a_wait_outlasts_passing_trouble,
                a_lease_that_runs_out_is_waited_for,
                a_watch_has_news_of_everything_since_it_began,
            }
            admin {
                a_holder_is_listed,
                a_prefix_selects_holders,
                a_run_is_listed_with_its_tick,
                a_dead_holder_is_not_listed,
                a_forced_release_leaves_the_tick_unfinished,
                a_forced_release_with_an_old_nonce_does_nothing,
                a_forced_release_of_nobody_is_refused,
                a_note_is_versioned,
                a_note_is_bounded,
                a_note_comes_with_every_win,
                a_note_can_be_written_under_a_lock,
            }
            names {
                strange_names_are_locks_of_their_own,
                strange_names_have_marks_of_their_own,
                a_holder_is_listed_under_its_own_name,
                an_empty_or_endless_name_is_refused,
            }
            failure {
                a_store_that_is_down_is_not_busy,
                an_unknown_outcome_is_sent_again_and_then_taken_back,
                a_call_that_hangs_is_cut_off,
                a_revocation_is_tried_until_it_is_acknowledged,
                a_release_is_tried_until_it_is_acknowledged,
                a_lost_reply_to_a_release_is_found_again,
                a_failed_claim_leaves_the_mark_alone,
                a_ttl_out_of_range_is_refused,
                a_ttl_beyond_the_namespaces_longest_is_refused,
                a_keeper_may_be_the_callers_own_runtime,
                #[alone] a_client_survives_a_restart_of_its_store,
                #[alone] a_frozen_store_is_an_error_in_time,
                #[alone] a_broken_connection_is_mended,
            }
            leading {
                one_of_two_candidates_leads,
                never_two_lead,
                the_fence_grows_with_every_term,
                stepping_down_hands_over_at_once,
                resigning_hands_over_at_once,
                a_dropped_elector_is_followed,
                a_dead_leader_is_followed,
                a_lost_leadership_is_told_in_order,
                a_leader_can_be_deposed_by_force,
                a_leader_whose_renewals_hang_knows_before_its_successor,
                a_failing_store_elects_nobody,
                a_lost_reply_blocks_no_group,
                a_group_meets_no_other_name,
                one_leader_runs_the_ticks,
            }
            capabilities {
                capabilities_are_constant,
                marks_are_kept_where_claimed,
                leases_run_out_where_claimed,
                wakes_are_pushed_where_claimed,
                losses_are_told_where_claimed,
                the_store_tells_its_time_where_claimed,
                locks_are_forced_where_claimed,
                fences_are_told_where_claimed,
            }
        }
        linux {
            network {
                a_claim_is_safe_wherever_its_reply_is_cut,
                a_claim_is_safe_wherever_its_request_is_cut,
                a_release_is_done_wherever_its_reply_is_cut,
                a_late_command_leaves_nothing_behind,
                a_holder_that_is_cut_off_is_told_before_its_successor,
                a_store_that_cannot_be_reached_is_not_busy,
                a_slow_link_loses_nothing,
                a_waiter_hears_of_a_release_that_its_broken_link_missed,
            }
        }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __each_law {
    (tests [$harness:ty]
        everywhere { $($module:ident { $($(#[$alone:ident])? $law:ident,)* })* }
        linux { $($linux_module:ident { $($linux_law:ident,)* })* }
    ) => {
        $($(
            #[test]
            fn $law() {
                $crate::__keep!($($alone)? $harness, $crate::laws::$module::$law);
            }
        )*)*
        $($(
            #[test]
            #[cfg(target_os = "linux")]
            fn $linux_law() {
                $crate::__keep!($harness, $crate::laws::$linux_module::$linux_law);
            }
        )*)*
    };
    (names []
        everywhere { $($module:ident { $($(#[$alone:ident])? $law:ident,)* })* }
        linux { $($linux_module:ident { $($linux_law:ident,)* })* }
    ) => {
        &[
            $($((stringify!($module), stringify!($law)),)*)*
            $($((stringify!($linux_module), stringify!($linux_law)),)*)*
        ]
    };
    (alone []
        everywhere { $($module:ident { $($(#[$alone:ident])? $law:ident,)* })* }
        linux { $($rest:tt)* }
    ) => {
        &[$($($((stringify!($alone), stringify!($law)),)?)*)*]
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __keep {
    ($harness:ty, $law:path) => {
        $crate::keep::<$harness>($law)
    };
    (alone $harness:ty, $law:path) => {
        $crate::keep_alone::<$harness>($law)
    };
}

/// Every law: its subject and its name.
pub const ALL: &[(&str, &str)] = __laws!(names);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    /// The sources of all modules of laws.
    const SOURCES: [(&str, &str); 15] = [
        ("exclusion", include_str!("exclusion.rs")),
        ("release", include_str!("release.rs")),
        ("lease", include_str!("lease.rs")),
        ("idempotence", include_str!("idempotence.rs")),
        ("lost", include_str!("lost.rs")),
        ("fencing", include_str!("fencing.rs")),
        ("enrolling", include_str!("enrolling.rs")),
        ("marks", include_str!("marks.rs")),
        ("waiting", include_str!("waiting.rs")),
        ("admin", include_str!("admin.rs")),
        ("names", include_str!("names.rs")),
        ("failure", include_str!("failure.rs")),
        ("leading", include_str!("leading.rs")),
        ("capabilities", include_str!("capabilities.rs")),
        ("network", include_str!("network.rs")),
    ];

    #[test]
    fn no_law_is_forgotten() {
        let written: BTreeSet<_> = SOURCES
            .iter()
            .flat_map(|(module, source)| {
                source
                    .lines()
                    .filter_map(|line| line.strip_prefix("pub async fn "))
                    .filter_map(|line| Some((*module, line.split_once('<')?.0)))
            })
            .collect();
        let listed: BTreeSet<_> = ALL.iter().copied().collect();
        assert_eq!(written, listed);
        assert_eq!(listed.len(), ALL.len(), "no law is listed twice");
    }

    /// A law that disturbs the store has one of its own, and the others can share theirs.
    #[test]
    fn exactly_the_laws_that_disturb_the_store_are_alone() {
        const DISTURBS: [&str; 4] = ["h.forget()", "h.restart()", "h.freeze()", "h.sever()"];
        let alone: &[(&str, &str)] = __laws!(alone);
        let disturbing: BTreeSet<_> = SOURCES
            .iter()
            .flat_map(|(_, source)| source.split("\npub async fn ").skip(1))
            .filter(|law| {
                // The law ends where its last line is indented no more.
                let body = law.split_once("\n}\n").map_or(*law, |(body, _)| body);
                DISTURBS.iter().any(|hook| body.contains(hook))
            })
            .filter_map(|law| Some(law.split_once('<')?.0))
            .collect();
        assert_eq!(alone.iter().map(|(_, law)| *law).collect::<BTreeSet<_>>(), disturbing);
    }

    #[test]
    fn no_module_of_laws_is_forgotten() {
        let declared: BTreeSet<_> = include_str!("mod.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
            .collect();
        assert_eq!(declared, SOURCES.iter().map(|(module, _)| *module).collect());
    }

    #[test]
    fn two_laws_never_share_a_name() {
        let names: BTreeSet<_> = ALL.iter().map(|(_, law)| law).collect();
        assert_eq!(names.len(), ALL.len());
    }
}
