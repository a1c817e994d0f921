//! How many commands clients sent, from a server's own statistics.
//!
//! Redis counts each command by its name, also what a script calls inside; etcd counts each message that it received, by its method.
//! What a script calls costs no round trip, and is taken out again.

use std::collections::BTreeMap;

/// Calls by name, since the server began.
pub(crate) type Counts = BTreeMap<String, u64>;

/// A command that a subject's scripts call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Inside {
    /// No client sends it by itself.
    Only(&'static str),
    /// Clients send it as well; each script that runs calls it once.
    Once(&'static str),
}

/// Not a command: how often a script ran. One whose script the server did not know ran none.
const RAN: &str = "scripts that ran";

/// Reads `INFO commandstats`: lines like `cmdstat_evalsha:calls=2,usec=3,usec_per_call=1.50,rejected_calls=0,failed_calls=1`.
pub(crate) fn of_redis(info: &str) -> Counts {
    let mut counts = Counts::new();
    for line in info.lines().filter_map(|line| line.trim().strip_prefix("cmdstat_")) {
        let Some((name, figures)) = line.split_once(':') else { continue };
        let figure = |name: &str| {
            let value = figures.split(',').find_map(|figure| figure.strip_prefix(name))?;
            value.strip_prefix('=')?.parse::<u64>().ok()
        };
        let Some(calls) = figure("calls") else { continue };
        counts.insert(name.to_owned(), calls);
        if matches!(name, "eval" | "evalsha" | "fcall") {
            *counts.entry(RAN.to_owned()).or_default() +=
                calls.saturating_sub(figure("failed_calls").unwrap_or(0));
        }
    }
    counts
}

/// Reads etcd's `/metrics`: lines like `grpc_server_msg_received_total{grpc_method="Txn",…} 7`.
pub(crate) fn of_etcd(metrics: &str) -> Counts {
    let line = |line: &str| {
        let (labels, calls) =
            line.strip_prefix("grpc_server_msg_received_total{")?.split_once("} ")?;
        let method = labels.split_once("grpc_method=\"")?.1.split('"').next()?;
        let calls: f64 = calls.trim().parse().ok()?;
        #[expect(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "a count, written as a float"
        )]
        Some((method.to_owned(), calls as u64))
    };
    let mut counts = Counts::new();
    for (method, calls) in metrics.lines().filter_map(line) {
        *counts.entry(method).or_default() += calls;
    }
    counts
}

/// Commands of clients between two readings. A name that is not known as a script's own counts as a client's; `INFO`, with which the
/// readings are taken, does not.
pub(crate) fn sent(before: &Counts, after: &Counts, inside: &[Inside]) -> u64 {
    let calls = |name: &str| {
        let at = |counts: &Counts| counts.get(name).copied().unwrap_or(0);
        at(after).saturating_sub(at(before))
    };
    let by_client = |name: &String| {
        let only = inside.iter().any(|inside| matches!(inside, Inside::Only(of) if of == name));
        let once = inside.iter().any(|inside| matches!(inside, Inside::Once(of) if of == name));
        match name.as_str() {
            "info" | RAN => 0,
            _ if only => 0,
            _ if once => calls(name).saturating_sub(calls(RAN)),
            _ => calls(name),
        }
    };
    after.keys().map(by_client).sum()
}

#[cfg(test)]
mod tests {
    use solocron_testkit::server::RedisServer;

    use super::*;

    #[test]
    fn statistics_are_read() {
        let info = "# Commandstats\r\ncmdstat_evalsha:calls=12,usec=40,usec_per_call=3.3,rejected_calls=0,failed_calls=2\r\n\
                    cmdstat_client|setinfo:calls=2,usec=1\r\nother:calls=3,\r\n";
        let counts = of_redis(info);
        assert_eq!((counts["evalsha"], counts["client|setinfo"], counts[RAN]), (12, 2, 10));
        assert_eq!(counts.len(), 3);

        let metrics = "# TYPE grpc_server_msg_received_total counter\n\
            grpc_server_msg_received_total{grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 7\n\
            grpc_server_msg_received_total{grpc_method=\"Lock\",grpc_service=\"v3lockpb.Lock\",grpc_type=\"unary\"} 1.2e+03\n\
            grpc_server_msg_sent_total{grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"} 9\n";
        let counts = of_etcd(metrics);
        assert_eq!((counts.len(), counts["Txn"], counts["Lock"]), (2, 7, 1200));
    }

    /// A real server: so many commands, some of which call others inside.
    #[test]
    fn what_a_script_calls_is_no_command_of_a_client() {
        let redis = RedisServer::start();
        let read = || of_redis(&redis.command(&["INFO", "commandstats"]).to_string());
        let before = read();
        for _ in 0..5 {
            redis.command(&["SET", "a", "1", "PX", "1000"]);
            redis.command(&[
                "EVAL",
                "return redis.call('GET', KEYS[1]) .. redis.call('DEL', 'b')",
                "1",
                "a",
            ]);
        }
        redis.command(&["GET", "a"]);
        let after = read();
        assert_eq!(sent(&before, &after, &[Inside::Only("del"), Inside::Once("get")]), 11);
        assert_eq!(sent(&before, &after, &[]), 21, "unknown names are taken for clients'");
        assert_eq!(sent(&after, &after, &[]), 0);
    }
}
