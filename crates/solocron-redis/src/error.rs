//! What redis says, as what a person can do about it. Nothing here ever means busy.

use std::error::Error as _;

use redis::{ErrorKind, RedisError};
use solocron::{BackendError, Kind};

use crate::config::Settings;
use crate::route::Route;

/// Whether a request may have been carried out although it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It never left, or only reads.
    No,
    /// It left, and nobody knows what became of it if the connection broke.
    Yes,
}

/// What we were `doing` failed. Holds no secret.
pub(crate) fn failed(
    settings: &Settings,
    doing: &str,
    error: &RedisError,
    sent: Sent,
) -> BackendError {
    let (kind, advice) = match code(error) {
        Some(code) if is_redirect(&code) && matches!(settings.route, Route::Cluster(_)) => {
            (Kind::Unavailable, "the cluster moves our slot: wait")
        }
        Some(code) => by_code(&code, &error.to_string()),
        None => by_transport(error),
    };
    let said = settings.scrub(said(error));
    let address = &settings.address;
    let known =
        BackendError::new(kind, format!("failed to {doing} at redis {address}: {said}: {advice}"));
    // A server that answers with an error has carried nothing out: the scripts catch what fails halfway.
    let unknown = sent == Sent::Yes && code(error).is_none();
    if unknown { known.effect_unknown() } else { known }
}

/// What one lock of many was answered with: the text of an error that a script caught.
pub(crate) fn caught(settings: &Settings, doing: &str, text: &str) -> BackendError {
    let code = text.split([' ', '\n']).next().unwrap_or_default();
    let (kind, advice) = by_code(code, text);
    let (said, address) = (settings.scrub(text.to_owned()), &settings.address);
    BackendError::new(kind, format!("failed to {doing} at redis {address}: {said}: {advice}"))
}

fn is_redirect(code: &str) -> bool {
    matches!(code, "MOVED" | "ASK")
}

/// Whether the server at the other end is not the one that takes writes: look for another one.
pub(crate) fn is_elsewhere(error: &RedisError) -> bool {
    // Older servers wrap what a script threw into an error of their own.
    code(error)
        .is_some_and(|code| matches!(code.as_str(), "READONLY" | "MASTERDOWN" | "MOVED" | "ASK"))
        || ["READONLY", "MASTERDOWN"].iter().any(|word| error.to_string().contains(word))
}

/// Whether RESP3 may be the reason.
pub(crate) fn speaks_no_resp3(error: &RedisError) -> bool {
    let text = error.to_string();
    error.kind() == ErrorKind::RESP3NotSupported
        || text.contains("HELLO") && (text.contains("unknown command") || text.contains("NOPERM"))
        || code(error).is_some_and(|code| code == "NOPROTO" || code == "NOPERM")
}

/// The error code of a server that answered.
fn code(error: &RedisError) -> Option<String> {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Some("WRONGPASS".to_owned()),
        _ => error.code().map(str::to_owned),
    }
}

fn said(error: &RedisError) -> String {
    if let (Some(code), Some(detail)) = (error.code(), error.detail()) {
        return format!("{code} {detail}");
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

fn by_code(code: &str, text: &str) -> (Kind, &'static str) {
    let has = |word: &str| text.contains(word);
    match code {
        "READONLY" => {
            (Kind::Unavailable, "this server is a replica: give the address of the primary")
        }
        "OOM" => {
            (Kind::Unavailable, "its memory is full: raise maxmemory; leases that are held go on")
        }
        "LOADING" => (Kind::Unavailable, "it is starting: wait"),
        "BUSY" => {
            (Kind::Unavailable, "somebody's script runs for too long: end it with SCRIPT KILL")
        }
        "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => {
            (Kind::Unavailable, "a failover is under way: wait")
        }
        "NOREPLICAS" => {
            (Kind::Unavailable, "it has fewer replicas than min-replicas-to-write: start them")
        }
        "FULL" => (Kind::Unavailable, "see why so many requests time out; trying again"),
        "MISCONF" => (Kind::Unavailable, "it refuses writes because it cannot save: see its disk"),
        "NOAUTH" | "WRONGPASS" | "DENIED" => {
            (Kind::Denied, "check the user and the password, and protected-mode")
        }
        "NOPERM" => (Kind::Denied, "give the user the rights of docs/backends/redis.md"),
        "WRONGTYPE" => (
            Kind::Misconfigured,
            "somebody else uses a key of this namespace: choose another namespace, or remove that key",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" => (
            Kind::Misconfigured,
            "this is a cluster: name its nodes with redis-cluster://host:port,host:port",
        ),
        "NOPROTO" => {
            (Kind::Misconfigured, "it speaks neither RESP3 nor RESP2: see what listens there")
        }
        _ if has("WRONGTYPE") => by_code("WRONGTYPE", ""),
        _ if has("OOM command not allowed") => by_code("OOM", ""),
        _ if has("READONLY") => by_code("READONLY", ""),
        _ if has("can't access") || has("can't run this command") || has("no permissions") => {
            by_code("NOPERM", "")
        }
        _ if has("invalid password") || has("without any password configured") => {
            by_code("NOAUTH", "")
        }
        _ if has("CORRUPT") => (
            Kind::Corrupt,
            "the record is not what we write: keep a copy of the key, see that nothing uses it, and delete it",
        ),
        _ if has("DB index") || has("SELECT is not allowed") || has("database") => (
            Kind::Misconfigured,
            "the server has no database of that number: see `databases` in its configuration",
        ),
        _ if has("max number of clients") => (Kind::Unavailable, "raise its maxclients"),
        _ if has("unknown command") || has("Unknown Redis command") => (
            Kind::Misconfigured,
            "this server lacks a command that locks need: use Redis 6 or later, or Valkey",
        ),
        _ => (Kind::Unavailable, "see the server's log"),
    }
}

fn by_transport(error: &RedisError) -> (Kind, &'static str) {
    let text = said(error);
    match error.kind() {
        ErrorKind::InvalidClientConfig if text.contains("database") => (
            Kind::Misconfigured,
            "the server has no database of that number: see `databases` in its configuration",
        ),
        ErrorKind::InvalidClientConfig => {
            (Kind::Misconfigured, "correct the URL or the certificates")
        }
        // The client takes an answer that is cut short for one that it cannot read.
        ErrorKind::Parse if text.contains("end of input") => {
            (Kind::Unavailable, "an answer broke off: see the server and the network")
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => (
            Kind::Misconfigured,
            "what listens there does not speak like redis: see the address and the port",
        ),
        _ if text.contains("certificate")
            || text.contains("CertificateRequired")
            || text.contains("HandshakeFailure") =>
        {
            (
                Kind::Misconfigured,
                "the TLS handshake failed: see the authority, the server's name in its certificate, and the client's certificate",
            )
        }
        _ if text.contains("InvalidContentType") || text.contains("corrupt message") => (
            Kind::Misconfigured,
            "the server speaks no TLS on this port: use redis:// or its TLS port",
        ),
        _ if error.is_connection_refusal() => {
            (Kind::Unavailable, "nothing listens there: start the server, see the address")
        }
        _ if error.is_timeout() => (Kind::Timeout, "see the server and the network"),
        _ => (Kind::Unavailable, "the connection broke: see the server and the network"),
    }
}
