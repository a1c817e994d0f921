//! The cron dialect: what is read, what is refused, and which days are meant.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use solocron::trigger::{At, Cron, DstFold, DstGap, Every, Trigger};

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(pattern: &str) -> Cron {
    Cron::parse(pattern).unwrap_or_else(|error| panic!("{error}"))
}

/// The first `n` ticks after `from`, in UTC, formatted by `format`.
fn ticks(pattern: &str, from: &str, n: usize, format: &str) -> Vec<String> {
    let cron = cron(pattern);
    let next = |t: &Timestamp| cron.next_after(*t);
    let ticks = std::iter::successors(next(&at(from)), next).take(n);
    ticks.map(|tick| tick.strftime(format).to_string()).collect()
}

const NEW_YEAR: &str = "2025-12-31T23:59:59Z";

#[test]
fn spellings_of_one_schedule_have_one_fingerprint() {
    for spellings in [
        &[
            "0 9 * * MON-FRI",
            "0 9 * * 1-5",
            "0 0 9 ? * mon,Tue,wed,THU,fri",
            " 0  9\t* *   1,2,3-5 ",
        ][..],
        &["@yearly", "@annually", "@YEARLY", "0 0 1 1 *", "0 0 1 JAN *", "0 0 1 jan ?"],
        &["@weekly", "0 0 * * 0", "0 0 * * 7", "0 0 * * SUN", "0 0 * * 7-7", "0 0 ? * sun"],
        &["@daily", "@midnight", "0 0 * * *"],
        &["@hourly", "0 * * * *", "0 */1 * * *"],
        &["0 22-2 * * *", "0 22,23,0,1,2 * * *"],
        &["0 0 * * FRI-MON", "0 0 * * 5-7,1", "0 0 * * 5,6,0,1", "0 0 * * 5-1"],
        &["0 0 * NOV-FEB *", "0 0 * 11,12,1,2 *"],
        &["0 0 29-2 * *", "0 0 29,30,31,1,2 * *"],
        &["5/15 3 * * *", "5-59/15 3 * * *", "5,20,35,50 3 * * *"],
        &["0 22-4/3 * * *", "0 22,1,4 * * *"],
        &["0 0 * * 0-7/2", "0 0 * * 0,2,4,6", "0 0 * * SUN/2", "0 0 * * 7/2"],
        &["0 0 L * *", "0 0 l * *"],
        &["0 0 * * 5L", "0 0 * * FRIL", "0 0 * * fril"],
    ] {
        let fingerprints: Vec<_> = spellings.iter().map(|text| cron(text).fingerprint()).collect();
        assert!(
            fingerprints.iter().all(|one| *one == fingerprints[0]),
            "{spellings:?}: {fingerprints:?}"
        );
    }
}

#[test]
fn different_schedules_have_different_fingerprints() {
    let berlin = |cron: Cron| cron.time_zone("Europe/Berlin").unwrap();
    let fixed = |hours| cron("0 9 * * *").zone(TimeZone::fixed(Offset::constant(hours)));
    let posix = |rule| cron("0 9 * * *").zone(TimeZone::posix(rule).unwrap());
    let mut fingerprints = [
        cron("0 9 * * *"),
        cron("1 0 9 * * *"),
        cron("0 9 1 * *"),
        cron("0 9 1 * 1"),
        cron("0 9 * * 1"),
        // Same days and same times, yet not the same: either day field, or both.
        cron("0 9 1 * 0-6"),
        cron("0 9 1W * *"),
        cron("0 9 L * *"),
        cron("0 9 LW * *"),
        cron("0 9 * * 1#1"),
        cron("0 9 * * 1L"),
        berlin(cron("0 9 * * *")),
        berlin(cron("0 9 * * *")).gap(DstGap::Skip),
        berlin(cron("0 9 * * *")).fold(DstFold::Last),
        fixed(1),
        fixed(2),
        posix("AAA-1BBB,M3.5.0,M10.5.0/3"),
        posix("AAA-1BBB,M3.4.0,M10.5.0/3"),
    ]
    .map(|cron| cron.fingerprint())
    .to_vec();
    fingerprints.push(Every::new(Duration::from_secs(60)).unwrap().fingerprint());
    fingerprints.push(At::new(at(NEW_YEAR)).unwrap().fingerprint());
    let all = fingerprints.len();
    fingerprints.sort_unstable();
    fingerprints.dedup();
    assert_eq!(fingerprints.len(), all);
}

#[test]
fn the_fingerprint_never_changes() {
    let cron = cron("30 2 * * MON-FRI").time_zone("Europe/Berlin").unwrap();
    assert_eq!(cron.fingerprint(), 15_124_831_490_783_547_667);
    // What stands by default may as well be said.
    assert_eq!(
        cron.clone().gap(DstGap::RunAfter).fold(DstFold::First).fingerprint(),
        cron.fingerprint()
    );
}

#[test]
fn a_fingerprint_that_was_asked_for_is_not_kept_for_another_schedule() {
    let asked = cron("30 2 * * *");
    let utc = asked.fingerprint();
    let berlin = asked.clone().time_zone("Europe/Berlin").unwrap();
    let skips = asked.clone().gap(DstGap::Skip);
    let twice = asked.clone().fold(DstFold::Both);
    assert_eq!(asked.clone().fingerprint(), utc);
    for other in [berlin, skips, twice] {
        assert_ne!(other.fingerprint(), utc, "{other:?}");
    }
}

#[test]
fn restricted_day_fields_are_either_or() {
    let days = |pattern| ticks(pattern, NEW_YEAR, 4, "%a %d");
    assert_eq!(days("0 0 13 * FRI"), ["Fri 02", "Fri 09", "Tue 13", "Fri 16"]);
    // One of them begins with `*`: both must match.
    assert_eq!(days("0 0 13 * *"), ["Tue 13", "Fri 13", "Fri 13", "Mon 13"]);
    assert_eq!(days("0 0 ? * FRI"), ["Fri 02", "Fri 09", "Fri 16", "Fri 23"]);
    assert_eq!(days("0 0 */2 * FRI"), ["Fri 09", "Fri 23", "Fri 13", "Fri 27"]);
    assert_eq!(days("0 0 13 * */5"), ["Fri 13", "Fri 13", "Sun 13", "Fri 13"]);
    // The whole range is a restriction in name, as in Vixie cron.
    assert_eq!(days("0 0 1-31 * FRI"), ["Thu 01", "Fri 02", "Sat 03", "Sun 04"]);
}

#[test]
fn special_days_are_found() {
    let days = |pattern| ticks(pattern, NEW_YEAR, 4, "%a %m-%d");
    assert_eq!(days("0 0 L * *"), ["Sat 01-31", "Sat 02-28", "Tue 03-31", "Thu 04-30"]);
    assert_eq!(days("0 0 L-3,1 * *"), ["Thu 01-01", "Wed 01-28", "Sun 02-01", "Wed 02-25"]);
    assert_eq!(days("0 0 LW * *"), ["Fri 01-30", "Fri 02-27", "Tue 03-31", "Thu 04-30"]);
    assert_eq!(days("0 0 15W * *"), ["Thu 01-15", "Mon 02-16", "Mon 03-16", "Wed 04-15"]);
    assert_eq!(days("0 0 1W 2,8 *"), ["Mon 02-02", "Mon 08-03", "Mon 02-01", "Mon 08-02"]);
    assert_eq!(days("0 0 31W * *"), ["Fri 01-30", "Tue 03-31", "Fri 05-29", "Fri 07-31"]);
    assert_eq!(days("0 0 * * MON#2"), ["Mon 01-12", "Mon 02-09", "Mon 03-09", "Mon 04-13"]);
    assert_eq!(days("0 0 * * 7#5"), ["Sun 03-29", "Sun 05-31", "Sun 08-30", "Sun 11-29"]);
    assert_eq!(days("0 0 * * FRIL"), ["Fri 01-30", "Fri 02-27", "Fri 03-27", "Fri 04-24"]);
    assert_eq!(days("0 0 1 * 5L"), ["Thu 01-01", "Fri 01-30", "Sun 02-01", "Fri 02-27"]);
}

#[test]
fn leap_days_are_found_across_a_century() {
    let years = |pattern| ticks(pattern, "2090-01-01T00:00:00Z", 3, "%Y-%m-%d %a");
    assert_eq!(years("0 0 29 2 *"), ["2092-02-29 Fri", "2096-02-29 Wed", "2104-02-29 Fri"]);
    // Forty years apart, the longest wait there is: 2100 is no leap year.
    assert_eq!(years("0 0 29 2 */7"), ["2128-02-29 Sun", "2156-02-29 Sun", "2184-02-29 Sun"]);
    let sunday = cron("0 0 29 2 */7");
    assert_eq!(
        sunday.last_at_or_before(at("2127-12-31T00:00:00Z")),
        Some(at("2088-02-29T00:00:00Z"))
    );
}

#[test]
fn seconds_come_first_of_six() {
    assert_eq!(
        ticks("*/20 59 23 31 12 *", NEW_YEAR, 2, "%F %T"),
        ["2026-12-31 23:59:00", "2026-12-31 23:59:20"]
    );
    assert_eq!(
        ticks("59 59 23 31 12 *", "2026-01-01T00:00:00Z", 1, "%F %T"),
        ["2026-12-31 23:59:59"]
    );
}

#[test]
fn ticks_are_strictly_after_and_at_or_before() {
    let hourly = cron("@hourly");
    let (ten, eleven) = (at("2026-01-01T10:00:00Z"), at("2026-01-01T11:00:00Z"));
    assert_eq!(hourly.next_after(ten), Some(eleven));
    assert_eq!(hourly.next_after(at("2026-01-01T10:59:59.999999999Z")), Some(eleven));
    assert_eq!(hourly.last_at_or_before(eleven), Some(eleven));
    assert_eq!(hourly.last_at_or_before(at("2026-01-01T10:59:59.999999999Z")), Some(ten));
    // Before 1970 a fraction counts the other way.
    assert_eq!(hourly.next_after(at("1969-12-31T21:59:59.5Z")), Some(at("1969-12-31T22:00:00Z")));
    assert_eq!(
        hourly.last_at_or_before(at("1969-12-31T21:59:59.5Z")),
        Some(at("1969-12-31T21:00:00Z"))
    );
}

#[test]
fn the_ends_of_time_are_an_end_and_no_panic() {
    for zone in ["UTC", "America/New_York", "Pacific/Apia", "Asia/Kolkata"] {
        for pattern in ["* * * * * *", "0 0 1 1 *", "0 0 31 12 *", "30 2 * * *", "0 0 29 2 */7"] {
            let cron = cron(pattern).time_zone(zone).unwrap();
            for cron in [cron.clone(), cron.clone().fold(DstFold::Last), cron.gap(DstGap::Skip)] {
                assert_eq!(cron.next_after(Timestamp::MAX), None);
                assert_eq!(
                    cron.last_at_or_before(Timestamp::MIN).filter(|t| *t > Timestamp::MIN),
                    None
                );
                assert!(cron.next_after(Timestamp::MIN).is_some(), "{cron}");
                assert!(cron.last_at_or_before(Timestamp::MAX).is_some(), "{cron}");
            }
        }
    }
}

#[test]
fn a_boxed_or_shared_trigger_is_a_trigger() {
    let shared: std::sync::Arc<dyn Trigger> = std::sync::Arc::new(cron("@daily"));
    let boxed: Box<dyn Trigger> = Box::new(std::sync::Arc::clone(&shared));
    assert_eq!(boxed.fingerprint(), shared.fingerprint());
    assert_eq!(boxed.next_after(Timestamp::UNIX_EPOCH), shared.next_after(Timestamp::UNIX_EPOCH));
    assert_eq!(boxed.last_at_or_before(Timestamp::MAX), shared.last_at_or_before(Timestamp::MAX));
}

#[test]
fn a_cron_shows_its_pattern_and_its_zone() {
    let cron: Cron = " 30 2 * * * ".parse().unwrap();
    assert_eq!((cron.to_string(), cron.as_str()), ("30 2 * * *".to_owned(), "30 2 * * *"));
    let fixed = cron.clone().zone(TimeZone::fixed(Offset::constant(-3)));
    assert_eq!(fixed.to_string(), "30 2 * * * (-03)");
    let berlin = cron.time_zone("europe/BERLIN").unwrap();
    assert_eq!(berlin.to_string(), "30 2 * * * (Europe/Berlin)");
    assert!(format!("{berlin:?}").contains("30 2 * * *"));
}

#[test]
fn an_error_points_at_the_place() {
    let table: &[(&str, Option<&str>, &str, &str)] = &[
        ("60 * * * *", Some("minute"), "60", "is not in 0-59"),
        ("* 24 * * *", Some("hour"), "24", "is not in 0-23"),
        ("* * 0 * *", Some("day-of-month"), "0", "is not in 1-31"),
        ("* * 32 * *", Some("day-of-month"), "32", "is not in 1-31"),
        ("* * * 13 *", Some("month"), "13", "is not in 1-12"),
        ("* * * * 8", Some("day-of-week"), "8", "is not in 0-7"),
        ("60 * * * * *", Some("second"), "60", "is not in 0-59"),
        ("1,2,99999999999 * * * *", Some("minute"), "99999999999", "is not in 0-59"),
        ("*/0 * * * *", Some("minute"), "0", "is not a step in 1-60"),
        ("*/61 * * * *", Some("minute"), "61", "is not a step in 1-60"),
        ("* */25 * * *", Some("hour"), "25", "is not a step in 1-24"),
        ("*/ * * * *", Some("minute"), "", "is not a step"),
        ("1/2/3 * * * *", Some("minute"), "2/3", "is not a step"),
        ("1,,2 * * * *", Some("minute"), "", "lacks a value"),
        (", * * * *", Some("minute"), "", "lacks a value"),
        ("1- * * * *", Some("minute"), "", "lacks a value"),
        ("1-2-3 * * * *", Some("minute"), "2-3", "is not a value"),
        ("*-5 * * * *", Some("minute"), "*", "is not a value"),
        ("** * * * *", Some("minute"), "**", "is not a value"),
        ("+5 * * * *", Some("minute"), "+5", "is not a value"),
        ("? * * * *", Some("minute"), "?", "write `*`"),
        ("0 0 ?,1 * *", Some("day-of-month"), "?", "write `*`"),
        ("L * * * *", Some("minute"), "L", "is not a value"),
        ("* * * JANUARY *", Some("month"), "JANUARY", "or JAN-DEC"),
        ("* * * * Mo", Some("day-of-week"), "Mo", "or SUN-SAT"),
        ("* * MON * *", Some("day-of-month"), "MON", "write a number 1-31"),
        ("* * L-31 * *", Some("day-of-month"), "L-31", "`L-1` to `L-30`"),
        ("* * 32W * *", Some("day-of-month"), "32", "is not in 1-31"),
        ("* * * * MON#6", Some("day-of-week"), "MON#6", "`#1` to `#5`"),
        ("* * * * MON#", Some("day-of-week"), "MON#", "`#1` to `#5`"),
        ("* * * * L", Some("day-of-week"), "", "lacks a value"),
        ("0 0 30 2 *", Some("day-of-month"), "30 2", "day-of-month `30` in month `2`"),
        ("0 0 31 2,4,6,9,11 *", Some("day-of-month"), "31 2,4,6,9,11", "no date ever matches"),
        ("0 0 30W,L-29 FEB *", Some("day-of-month"), "30W,L-29 FEB", "choose days"),
        ("0 0 30 2 */2", Some("day-of-month"), "30 2 */2", "with day-of-week `*/2`"),
        ("  5 4  ", None, "5 4", "has 2 fields"),
        ("*", None, "*", "has 1 field:"),
        ("0 0 12 * * ? 2026", None, "0 0 12 * * ? 2026", "has 7 fields"),
        ("", None, "", "is empty"),
        (" \t ", None, "", "is empty"),
        ("@every 5m", None, "@every 5m", "use the trigger `Every`"),
        ("@reboot", None, "@reboot", "names no instant"),
        ("@dayly", None, "@dayly", "@hourly"),
        ("CRON_TZ=UTC 0 0 * * *", None, "CRON_TZ=UTC 0 0 * * *", "Cron::time_zone"),
        ("0 0 é * *", Some("day-of-month"), "é", "is not a value"),
        ("0 0 éW * *", Some("day-of-month"), "é", "is not a value"),
    ];
    for (pattern, field, place, why) in table {
        let error = Cron::parse(pattern).expect_err(pattern);
        let message = error.to_string();
        assert_eq!(error.field(), *field, "{message}");
        assert_eq!(&pattern[error.span().unwrap()], *place, "{message}");
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn an_error_draws_carets_below_the_place() {
    let error = Cron::parse("0 25,é * * *").unwrap_err().to_string();
    let drawn = "cron pattern: hour `25` is not in 0-23: choose a number from that range\n  | 0 25,é * * *\n  |   ^^";
    assert_eq!(error, drawn);

    let long = format!("{}61 * * * *", "0,".repeat(300));
    let error = Cron::parse(&long).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() < 150), "{error}");
    let column = lines[2].chars().position(|c| c == '^').unwrap();
    assert_eq!(lines[1].chars().skip(column).take(2).collect::<String>(), "61");
}

#[test]
fn an_unknown_zone_is_refused_with_its_name() {
    let daily = cron("@daily");
    for name in ["Europe/Berln", "", "../../etc/passwd", "\0", "UTC\n"] {
        let error = daily.clone().time_zone(name).unwrap_err();
        assert!(error.to_string().contains("use an IANA name"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
    let error = daily.time_zone(&"x".repeat(1 << 20)).unwrap_err().to_string();
    assert!(error.len() < 300, "{error}");
}
