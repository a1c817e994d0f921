//! What cron patterns do when clocks change: a golden table.
//!
//! The instants were worked out by hand from the rules of each zone.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use solocron::trigger::{Cron, DstFold, DstGap, Trigger};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(zone: &str, pattern: &str) -> Cron {
    Cron::parse(pattern).unwrap().time_zone(zone).unwrap()
}

/// The ticks in `from..=to`, as wall-clock time with offset, walked both ways.
fn ticks(cron: &Cron, zone: &str, from: &str, to: &str) -> Vec<String> {
    let (from, to) = (at(from), at(to));
    let before = from - SignedDuration::from_millis(1);
    let next = |t: &Timestamp| cron.next_after(*t).filter(|tick| *tick <= to);
    let forward: Vec<_> = std::iter::successors(next(&before), next).collect();

    let last = |t: Timestamp| cron.last_at_or_before(t).filter(|tick| *tick >= from);
    let mut backward: Vec<_> =
        std::iter::successors(last(to), |t| last(*t - SignedDuration::from_millis(1))).collect();
    backward.reverse();
    assert_eq!(forward, backward, "{cron}: forward and backward disagree");

    let zone = TimeZone::get(zone).unwrap();
    forward
        .iter()
        .map(|tick| tick.to_zoned(zone.clone()).strftime("%d %H:%M %:z").to_string())
        .collect()
}

#[track_caller]
fn golden(zone: &str, day: [&str; 2], table: &[(&str, &[&str])]) {
    for (pattern, expected) in table {
        assert_eq!(
            ticks(&cron(zone, pattern), zone, day[0], day[1]),
            *expected,
            "{zone} {pattern}"
        );
    }
}

#[test]
fn new_york_goes_forward_at_two() {
    golden(
        "America/New_York",
        ["2026-03-08T05:00:00Z", "2026-03-08T08:30:00Z"],
        &[
            ("30 2 * * *", &["08 03:00 -04:00"]),
            ("0,30 2 * * *", &["08 03:00 -04:00"]),
            ("0 2-3 * * *", &["08 03:00 -04:00"]),
            ("30 2-3 * * *", &["08 03:00 -04:00", "08 03:30 -04:00"]),
            ("0 3 * * *", &["08 03:00 -04:00"]),
            ("59 1 * * *", &["08 01:59 -05:00"]),
            (
                "*/30 * * * *",
                &[
                    "08 00:00 -05:00",
                    "08 00:30 -05:00",
                    "08 01:00 -05:00",
                    "08 01:30 -05:00",
                    "08 03:00 -04:00",
                    "08 03:30 -04:00",
                    "08 04:00 -04:00",
                    "08 04:30 -04:00",
                ],
            ),
            // The hour or the minute begins with `*`: nothing is made up for what is left out.
            ("*/30 2 * * *", &[]),
            ("30 */2 * * *", &["08 00:30 -05:00", "08 04:30 -04:00"]),
            // A free seconds field does not make a time of day anything else.
            ("*/20 30 2 * * *", &["08 03:00 -04:00"]),
        ],
    );
}

#[test]
fn new_york_goes_back_at_two() {
    golden(
        "America/New_York",
        ["2026-11-01T04:00:00Z", "2026-11-01T07:59:00Z"],
        &[
            ("30 1 * * *", &["01 01:30 -04:00"]),
            ("0 1-3 * * *", &["01 01:00 -04:00", "01 02:00 -05:00"]),
            ("0 1,2 * * *", &["01 01:00 -04:00", "01 02:00 -05:00"]),
            ("0,30 1 * * *", &["01 01:00 -04:00", "01 01:30 -04:00"]),
            ("0 0 1 * * *", &["01 01:00 -04:00"]),
            (
                "*/30 1 * * *",
                &["01 01:00 -04:00", "01 01:30 -04:00", "01 01:00 -05:00", "01 01:30 -05:00"],
            ),
            (
                "0 * * * *",
                &["01 00:00 -04:00", "01 01:00 -04:00", "01 01:00 -05:00", "01 02:00 -05:00"],
            ),
            (
                "15 */1 * * *",
                &["01 00:15 -04:00", "01 01:15 -04:00", "01 01:15 -05:00", "01 02:15 -05:00"],
            ),
        ],
    );
}

#[test]
fn both_changes_are_kept_from_one_tick_to_the_next() {
    let daily = cron("Europe/Berlin", "30 2 * * *");
    // A gap on 29 March, a fold on 25 October.
    assert_eq!(daily.next_after(at("2026-03-28T12:00:00Z")), Some(at("2026-03-29T01:00:00Z")));
    assert_eq!(daily.next_after(at("2026-03-29T01:00:00Z")), Some(at("2026-03-30T00:30:00Z")));
    assert_eq!(daily.next_after(at("2026-10-25T00:30:00Z")), Some(at("2026-10-26T01:30:00Z")));
    assert_eq!(
        daily.last_at_or_before(at("2026-10-25T12:00:00Z")),
        Some(at("2026-10-25T00:30:00Z"))
    );
    assert_eq!(
        daily.last_at_or_before(at("2026-03-29T00:59:59.999Z")),
        Some(at("2026-03-28T01:30:00Z"))
    );
}

#[test]
fn lord_howe_moves_by_half_an_hour() {
    let zone = "Australia/Lord_Howe";
    // 4 October: 02:00 becomes 02:30. 5 April: 02:00 becomes 01:30.
    golden(
        zone,
        ["2026-10-03T15:00:00Z", "2026-10-03T16:00:00Z"],
        &[
            ("15 2 * * *", &["04 02:30 +11:00"]),
            ("15,45 2 * * *", &["04 02:30 +11:00", "04 02:45 +11:00"]),
            (
                "*/15 * * * *",
                &[
                    "04 01:30 +10:30",
                    "04 01:45 +10:30",
                    "04 02:30 +11:00",
                    "04 02:45 +11:00",
                    "04 03:00 +11:00",
                ],
            ),
        ],
    );
    golden(
        zone,
        ["2026-04-04T14:15:00Z", "2026-04-04T15:30:00Z"],
        &[
            ("45 1 * * *", &["05 01:45 +11:00"]),
            (
                "*/15 * * * *",
                &[
                    "05 01:15 +11:00",
                    "05 01:30 +11:00",
                    "05 01:45 +11:00",
                    "05 01:30 +10:30",
                    "05 01:45 +10:30",
                    "05 02:00 +10:30",
                ],
            ),
        ],
    );
}

#[test]
fn santiago_has_no_midnight_in_september() {
    let zone = "America/Santiago";
    golden(
        zone,
        ["2026-09-05T12:00:00Z", "2026-09-06T12:00:00Z"],
        &[
            ("0 0 * * *", &["06 01:00 -03:00"]),
            ("@daily", &["06 01:00 -03:00"]),
            ("0 0 6 9 *", &["06 01:00 -03:00"]),
        ],
    );
    // 4 April, 24:00 becomes 23:00: the repeated hour is still the day before.
    golden(
        zone,
        ["2026-04-04T12:00:00Z", "2026-04-05T12:00:00Z"],
        &[("30 23 * * *", &["04 23:30 -03:00"]), ("0 0 * * *", &["05 00:00 -04:00"])],
    );
}

#[test]
fn lisbon_lies_west_of_the_rule() {
    let zone = "Europe/Lisbon";
    golden(
        zone,
        ["2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z"],
        &[("30 1 * * *", &["29 02:00 +01:00"])],
    );
    golden(
        zone,
        ["2026-10-24T23:30:00Z", "2026-10-25T03:00:00Z"],
        &[("30 1 * * *", &["25 01:30 +01:00"])],
    );
}

#[test]
fn apia_skipped_a_whole_day() {
    // 30 December 2011 did not happen: what was due on it is due when the 31st begins.
    golden(
        "Pacific/Apia",
        ["2011-12-29T12:00:00Z", "2011-12-31T09:00:00Z"],
        &[
            ("0 12 * * *", &["29 12:00 -10:00", "31 00:00 +14:00", "31 12:00 +14:00"]),
            ("0 12 30 12 *", &["31 00:00 +14:00"]),
            ("0 */12 * * *", &["29 12:00 -10:00", "31 00:00 +14:00", "31 12:00 +14:00"]),
            ("0 */12 30 12 *", &[]),
        ],
    );
}

#[test]
fn negative_summer_time_is_nothing_special() {
    // Dublin's winter is the exception to its standard time; Casablanca's Ramadan is.
    golden(
        "Europe/Dublin",
        ["2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z"],
        &[("30 1 * * *", &["29 02:00 +01:00"])],
    );
    golden(
        "Europe/Dublin",
        ["2026-10-24T23:30:00Z", "2026-10-25T03:00:00Z"],
        &[("30 1 * * *", &["25 01:30 +01:00"])],
    );
    golden(
        "Africa/Casablanca",
        ["2026-02-15T00:00:00Z", "2026-02-15T04:00:00Z"],
        &[
            ("30 2 * * *", &["15 02:30 +01:00"]),
            (
                "30 * * * *",
                &["15 01:30 +01:00", "15 02:30 +01:00", "15 02:30 +00:00", "15 03:30 +00:00"],
            ),
        ],
    );
    golden(
        "Africa/Casablanca",
        ["2026-03-22T00:00:00Z", "2026-03-22T04:00:00Z"],
        &[("30 2 * * *", &["22 03:00 +01:00"])],
    );
}

#[test]
fn troll_moves_by_two_hours() {
    let zone = "Antarctica/Troll";
    golden(
        zone,
        ["2026-03-29T00:00:00Z", "2026-03-29T03:00:00Z"],
        &[("30 1,2 * * *", &["29 03:00 +02:00"])],
    );
    golden(
        zone,
        ["2026-10-24T22:00:00Z", "2026-10-25T03:30:00Z"],
        &[("30 1,2 * * *", &["25 01:30 +02:00", "25 02:30 +02:00"])],
    );
}

#[test]
fn the_gap_knob_holds_for_every_pattern() {
    let zone = "America/New_York";
    let on_the_day =
        |cron: &Cron| ticks(cron, zone, "2026-03-08T06:00:00Z", "2026-03-08T07:29:00Z");
    let fixed = cron(zone, "30 2 * * *");
    assert_eq!(on_the_day(&fixed), ["08 03:00 -04:00"]);
    assert_eq!(on_the_day(&fixed.clone().gap(DstGap::RunAfter)), ["08 03:00 -04:00"]);
    assert!(on_the_day(&fixed.gap(DstGap::Skip)).is_empty());

    let free = cron(zone, "*/10 2 * * *");
    assert!(on_the_day(&free).is_empty());
    assert_eq!(on_the_day(&free.gap(DstGap::RunAfter)), ["08 03:00 -04:00"]);
}

#[test]
fn the_fold_knob_holds_for_every_pattern() {
    let zone = "America/New_York";
    for pattern in ["30 1 * * *", "30 */1 * * *"] {
        let repeated = |fold| {
            ticks(
                &cron(zone, pattern).fold(fold),
                zone,
                "2026-11-01T05:00:00Z",
                "2026-11-01T06:59:59Z",
            )
        };
        assert_eq!(repeated(DstFold::First), ["01 01:30 -04:00"]);
        assert_eq!(repeated(DstFold::Last), ["01 01:30 -05:00"]);
        assert_eq!(repeated(DstFold::Both), ["01 01:30 -04:00", "01 01:30 -05:00"]);
    }
}

#[test]
fn a_time_that_is_left_out_each_year_ends_the_search() {
    // Since 2007 the second Sunday of March never has a half past two in New York.
    let never = cron("America/New_York", "30 2 * 3 SUN#2").gap(DstGap::Skip);
    assert_eq!(never.next_after(at("2026-01-01T00:00:00Z")), None);
    assert_eq!(
        never.last_at_or_before(at("2026-01-01T00:00:00Z")),
        Some(at("2006-03-12T07:30:00Z"))
    );
}

#[test]
fn a_zone_without_a_name_keeps_its_own_rules() {
    let daily = Cron::parse("30 2 * * *").unwrap();
    let new_york = daily.clone().time_zone("America/New_York").unwrap();
    let rules = daily.clone().zone(TimeZone::posix("EST5EDT,M3.2.0,M11.1.0").unwrap());
    let mut t = at("2026-01-01T00:00:00Z");
    for _ in 0..400 {
        assert_eq!(rules.next_after(t), new_york.next_after(t));
        t = rules.next_after(t).unwrap();
        assert_eq!(rules.last_at_or_before(t), Some(t));
    }
    let offset = jiff::tz::Offset::from_seconds(19_800).unwrap();
    let fixed = daily.zone(TimeZone::fixed(offset));
    assert_eq!(fixed.next_after(at("2026-01-01T00:00:00Z")), Some(at("2026-01-01T21:00:00Z")));
}

#[test]
fn absurd_zones_end_and_never_go_backwards() {
    // Clock changes longer than what lies between them; no real zone has such.
    for rules in [
        "AAA0BBB-24,J59/0,J60/0",
        "AAA24BBB-24,J100/0,J100/12",
        "AAA0BBB0,J1/0,J365/0",
        "AAA0BBB,0/0,J365/25",
    ] {
        let zone = TimeZone::posix(rules).unwrap();
        for pattern in ["* * * * * *", "30 2 * * *", "0 0 29 2 *", "0 12 1,10 1,4 *"] {
            for fold in [DstFold::First, DstFold::Last, DstFold::Both] {
                let cron = Cron::parse(pattern).unwrap().zone(zone.clone()).fold(fold);
                for day in 0..400 {
                    let t = at("2026-01-01T00:00:00Z") + SignedDuration::from_hours(day * 24);
                    assert!(cron.next_after(t).is_none_or(|next| next > t));
                    assert!(cron.last_at_or_before(t).is_none_or(|last| last <= t));
                }
            }
        }
    }
}

#[test]
fn clock_changes_are_days_apart() {
    // What lets a search treat them one at a time.
    let (from, to) = (at("1900-01-01T00:00:00Z"), at("2038-01-01T00:00:00Z"));
    let mut zones = 0;
    for name in jiff::tz::db().available() {
        let Ok(zone) = TimeZone::get(name.as_str()) else { continue };
        zones += 1;
        let (mut before, mut last) = (zone.to_offset(from), (Timestamp::MIN, 0));
        for change in zone.following(from).take_while(|change| change.timestamp() < to) {
            let moved = (change.offset().seconds() - before.seconds()).abs();
            let apart = change.timestamp().as_second() - last.0.as_second();
            assert!(apart > 2 * i64::from(moved.max(last.1)), "{name} {}", change.timestamp());
            (before, last) = (change.offset(), (change.timestamp(), moved));
        }
    }
    assert!(zones > 300, "only {zones} zones: is tzdata installed?");
}
