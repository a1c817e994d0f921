//! The scripts against the rules: random sequences of operations go through the scripts on a real server and through
//! [`KeyRecord`], with the same times, and must be answered alike.
//!
//! The scripts are the real ones but for the clock: instead of asking `TIME` they read a key, so that a sequence may let hours
//! pass, or step back.

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};
use solocron::LeaseInstant;
use solocron::lock::{KeyRecord, Verdict};
use solocron_testkit::server::{RedisServer, Value as Answer};

use super::*;
use crate::RedisBackend;

const NODES: [&str; 3] = ["a/1", "node with spaces", ""];
const NAMES: [&str; 2] = ["report", "nightly {x} ☾"];
/// The first tick and the clock's beginning: 2026 or so.
const BEGIN_MS: i64 = 1_790_000_000_000;

#[derive(Debug, Clone)]
enum Step {
    Acquire {
        name: usize,
        nonce: u128,
        node: usize,
        ttl_ms: u64,
        claim: Option<(i64, Option<i64>, u32)>,
    },
    Renew {
        name: usize,
        nonce: u128,
        ttl_ms: u64,
    },
    Release {
        name: usize,
        nonce: u128,
        after: (u8, i64),
        revoke: bool,
    },
    Enroll {
        name: usize,
        fingerprint: u64,
    },
    Note {
        name: usize,
        expected: u64,
        body: Vec<u8>,
    },
    Wait {
        us: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    let nonce = prop_oneof![4 => 1u128..4, 1 => Just(u128::MAX)];
    let tick = -3i64..20;
    let claim =
        prop::option::weighted(0.7, (tick.clone(), prop::option::of(tick.clone()), 0u32..4));
    prop_oneof![
        8 => (name.clone(), nonce.clone(), 0..NODES.len(), 1u64..9, claim)
            .prop_map(|(name, nonce, node, ttl_ms, claim)| Step::Acquire { name, nonce, node, ttl_ms, claim }),
        2 => (name.clone(), nonce.clone(), 1u64..9).prop_map(|(name, nonce, ttl_ms)| Step::Renew { name, nonce, ttl_ms }),
        5 => (name.clone(), nonce, (0u8..4, tick), any::<bool>())
            .prop_map(|(name, nonce, after, revoke)| Step::Release { name, nonce, after, revoke }),
        2 => (name.clone(), prop_oneof![Just(7), Just(u64::MAX)]).prop_map(|(name, fingerprint)| Step::Enroll { name, fingerprint }),
        1 => (name, 0u64..4, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(name, expected, body)| Step::Note { name, expected, body }),
        4 => prop_oneof![3 => (0i64..4).prop_map(|ms| ms * 1000), 1 => 0i64..3_000, 1 => Just(70_000_000), 1 => -5_000i64..0].prop_map(|us| Step::Wait { us }),
    ]
}

/// A server whose scripts go by a clock of the test's.
struct Store {
    server: RedisServer,
    settings: Settings,
    now_us: i64,
}

impl Store {
    fn start() -> Self {
        let server = RedisServer::start();
        let settings = RedisBackend::builder(&server.url()).check().unwrap();
        Self { server, settings, now_us: 0 }
    }

    fn begin(&mut self) {
        self.server.command(&["FLUSHALL"]);
        self.now_us = BEGIN_MS * 1000;
        self.wait(0);
    }

    fn wait(&mut self, us: i64) {
        self.now_us += us;
        let (seconds, rest) = (self.now_us / 1_000_000, self.now_us % 1_000_000);
        self.server.command(&["HSET", "clock", "s", &seconds.to_string(), "us", &rest.to_string()]);
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_microsecond(self.now_us).unwrap()
    }

    fn run(&self, script: &Script, call: &Call) -> Value {
        const CLOCK: &str = "redis.call('TIME')";
        assert_eq!(script.source().matches(CLOCK).count(), 1);
        let source = script.source().replace(CLOCK, "redis.call('HMGET', 'clock', 's', 'us')");
        let count = call.keys.len().to_string();
        let mut words: Vec<&[u8]> = vec![b"EVAL", source.as_bytes(), count.as_bytes()];
        words.extend(call.keys.iter().map(String::as_bytes));
        words.extend(call.arguments.iter().map(Vec::as_slice));
        value(self.server.command(&words))
    }

    /// Plays one step on the record and through the script. Panics where they differ.
    fn play(&mut self, records: &mut [KeyRecord], step: Step) {
        let now = self.now();
        let key = |name: usize| LockKey::new(NAMES[name]).unwrap();
        let (settings, names) = (&self.settings, &self.settings.names);
        match step {
            Step::Wait { us } => self.wait(us),
            Step::Acquire { name, nonce, node, ttl_ms, claim } => {
                let ttl = Duration::from_millis(ttl_ms);
                let node = NodeId::named(NODES[node]);
                let mut request = Request::new(
                    key(name),
                    Nonce::from_u128(nonce),
                    node,
                    ttl,
                    LeaseInstant::NEVER,
                );
                if let Some((tick, after, attempts)) = claim {
                    let delivery = match attempts {
                        0 => Delivery::AtMostOnce,
                        max_attempts => Delivery::AtLeastOnce { max_attempts },
                    };
                    let mark = |tick| Mark::from_millis(BEGIN_MS + tick);
                    request = request.claiming(Claim {
                        tick: mark(tick),
                        after: after.map(mark),
                        delivery,
                    });
                }
                let slug = request.key.slug();
                let call = acquire(
                    names,
                    "",
                    b"",
                    std::slice::from_ref(&request),
                    std::slice::from_ref(&slug),
                    &[],
                );
                let answer = self.run(&script::ACQUIRE, &call);
                let mut answers = Bytes::of(&answer, "attempt").unwrap();
                assert_eq!(opened(&mut answers).unwrap().0, now);
                let got = replied(settings, &request, &slug, now, answers.frame().unwrap(), false);
                compare(&mut records[name], &request, now, got);
            }
            Step::Renew { name, nonce, ttl_ms } => {
                let (key, nonce, ttl) =
                    (key(name), Nonce::from_u128(nonce), Duration::from_millis(ttl_ms));
                let lease = RedisLease { slug: key.slug(), key, nonce, ttl, kept: None };
                let answer = self.run(&script::RENEW, &renew(names, &[&lease]));
                let got = renewed(settings, &[&lease], LeaseInstant::NEVER, &answer)
                    .unwrap()
                    .remove(0)
                    .unwrap();
                let expected = records[name].renew(nonce, ttl, now);
                assert_eq!(matches!(got, Renewal::Extended(_)), expected, "{got:?}");
            }
            Step::Release { name, nonce, after, revoke } => {
                let after = match after {
                    (0, _) => MarkAfter::Done,
                    (1, to) => MarkAfter::DoneAndSkip(Mark::from_millis(BEGIN_MS + to)),
                    (2, _) => MarkAfter::Unfinished,
                    _ => MarkAfter::Undo,
                };
                let (key, nonce) = (key(name), Nonce::from_u128(nonce));
                let slug = key.slug();
                let returned = Return { key, slug, nonce, mark: after, revoke, leave: None };
                let call = release(names, &[], std::slice::from_ref(&returned));
                let answer = self.run(&script::RELEASE, &call);
                let answer = frames(&answer).unwrap().1.frame().unwrap();
                let got = released(settings, &returned, answer).unwrap();
                let record = &mut records[name];
                let expected = if revoke {
                    record.revoke(nonce, after, now)
                } else {
                    record.release(nonce, after, now)
                };
                assert_eq!(got, expected);
            }
            Step::Enroll { name, fingerprint } => {
                let jobs = [Enrolment { key: key(name), fingerprint }];
                let got =
                    enrolled(settings, &jobs, &self.run(&script::ENROLL, &enroll(names, &jobs)))
                        .unwrap()
                        .remove(0)
                        .unwrap();
                assert_eq!(got, records[name].enroll(&jobs[0], now).0);
            }
            Step::Note { name, expected, body } => {
                let key = key(name);
                let answer = self.run(&script::NOTE, &note(names, &key, expected, &body));
                let got = noted(settings, &key, &answer).unwrap();
                assert_eq!(got, records[name].set_note(expected, &body).unwrap().0);
            }
        }
        let mut call = Call::default();
        NAMES.iter().for_each(|name| {
            call.key(self.settings.names.lock(&LockKey::new(*name).unwrap().slug()))
        });
        let now = self.now();
        let held: Vec<_> = records.iter().filter_map(|record| record.holder(now, true)).collect();
        assert_eq!(holders("", &self.run(&script::HOLDERS, &call)).unwrap(), held);
    }
}

/// Judges on the record, and compares with what the script answered.
fn compare(
    record: &mut KeyRecord,
    request: &Request,
    now: Timestamp,
    got: Result<Reply<RedisLease>, BackendError>,
) {
    let verdict = record.judge(request, now, true);
    let granted = match verdict {
        Verdict::Grant => Ok(record.grant(request, now, Some(request.ttl))),
        Verdict::Again(granted) => Ok(granted),
        other => Err(other),
    };
    match (granted, got) {
        (Ok(granted), Ok(Reply::Won(grant))) => {
            assert_eq!(grant.fence, granted.fence);
            assert_eq!((grant.previous, grant.attempt), (granted.previous, granted.attempt));
            assert_eq!((grant.schedule, &grant.note), (record.schedule(), record.note()));
            assert_eq!(
                (grant.store_now, grant.lease.nonce, grant.lease.ttl),
                (Some(now), request.nonce, request.ttl)
            );
        }
        (Err(Verdict::Refused), Err(error)) => assert_eq!(error.kind(), Kind::Refused),
        (Err(Verdict::NotEnrolled), Err(error)) => assert_eq!(error.kind(), Kind::NotEnrolled),
        (Err(Verdict::Early), Ok(Reply::Early { store_now })) => assert_eq!(store_now, now),
        (
            Err(Verdict::Stale { mark, done, owner }),
            Ok(Reply::Stale { mark: got, done: got_done, owner: got_owner }),
        ) => {
            assert_eq!((got, got_done, got_owner.map(|owner| *owner)), (mark, done, owner));
        }
        (Err(Verdict::Busy(holder)), Ok(Reply::Busy { holder: got })) => {
            assert_eq!(got.map(|got| *got), Some(holder))
        }
        (
            Err(Verdict::Behind { mark, unfinished }),
            Ok(Reply::Behind { mark: got, unfinished: got_unfinished }),
        ) => {
            assert_eq!((got, got_unfinished), (mark, unfinished));
        }
        (expected, got) => {
            panic!("the record says {expected:?}, the script {got:?}, to {request:?}")
        }
    }
}

fn value(answer: Answer) -> Value {
    match answer {
        Answer::Nil => Value::Nil,
        Answer::Int(number) => Value::Int(number),
        Answer::Simple(text) => Value::SimpleString(text),
        Answer::Bulk(bytes) => Value::BulkString(bytes),
        Answer::Array(values) => Value::Array(values.into_iter().map(value).collect()),
        Answer::Error(text) => panic!("the script failed: {text}"),
    }
}

#[test]
fn scripts_and_records_answer_alike() {
    let seed = std::env::var("SOLOCRON_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| Nonce::random().as_u128() as u64);
    eprintln!("SOLOCRON_SEED={seed}");
    let mut store = Store::start();
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..ProptestConfig::default()
    };
    let sequence = (0..4usize, prop::collection::vec(step(), 1..80));
    let store = std::cell::RefCell::new(&mut store);
    let outcome = TestRunner::new(config).run(&sequence, |(enrolments, steps)| {
        let mut store = store.borrow_mut();
        store.begin();
        let mut records = NAMES.map(|name| KeyRecord::new(LockKey::new(name).unwrap()));
        let enrolled = [0, 0, 1].map(|name| Step::Enroll { name, fingerprint: 7 });
        for step in enrolled.into_iter().take(enrolments).chain(steps) {
            store.play(&mut records, step);
        }
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn messages_are_read_and_what_is_none_is_an_error() {
    let nonce = Nonce::from_u128(7);
    let mut message = b"slug".to_vec();
    assert_eq!(Message::read(&message).unwrap(), Message::Free("slug"));
    message.push(0);
    assert!(Message::read(&message).is_err());
    message.extend(nonce.as_u128().to_be_bytes());
    assert_eq!(Message::read(&message).unwrap(), Message::FreeFor("slug", nonce));
    message.extend(5e6_f64.to_le_bytes());
    message.extend(b"record");
    let at = Timestamp::from_second(5).unwrap();
    assert_eq!(Message::read(&message).unwrap(), Message::Granted(nonce, at, b"record"));
    for end in 0..message.len() {
        let _ = Message::read(&message[..end]);
    }
    assert!(Message::read(b"\xff").is_err());
}
