//! What etcd and its client say, as what a person or a caller can do about it.

use std::error::Error as StdError;
use std::time::Duration;

use etcd_client::Error;
use solocron::{BackendError, Effect, Kind};
use tonic::{Code, ConnectError};

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: BackendError,
    /// Another member may do better.
    pub(crate) elsewhere: bool,
    /// The session lease is over. Nothing was carried out.
    pub(crate) no_lease: bool,
    /// The connection broke.
    pub(super) broken: bool,
}

/// The same failure of a request that was never sent.
pub(crate) fn without_effect(error: BackendError) -> BackendError {
    match error.effect() {
        Effect::None => error,
        _ => BackendError::new(error.kind(), error.to_string()),
    }
}

impl From<Fault> for BackendError {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}

impl Fault {
    pub(super) fn new(error: BackendError) -> Self {
        Self { error, elsewhere: false, no_lease: false, broken: false }
    }

    /// No answer within `limit`.
    pub(super) fn timeout(endpoint: &str, limit: Duration) -> Self {
        let why = format!("etcd at {endpoint} did not answer within {limit:?}");
        let error = BackendError::new(Kind::Timeout, why).effect_unknown();
        Self { elsewhere: true, ..Self::new(error) }
    }

    /// The same fault of a call that was never sent.
    pub(crate) fn without_effect(self) -> Self {
        Self { error: without_effect(self.error), ..self }
    }

    /// The thread that connects is gone.
    pub(super) fn no_keeper(endpoint: &str) -> Self {
        let why = format!("no thread is left to connect to etcd at {endpoint}");
        Self::new(BackendError::new(Kind::Unavailable, why))
    }

    /// What the client said about a call to `endpoint`.
    pub(super) fn of(error: &Error, endpoint: &str) -> Self {
        match error {
            Error::GRpcStatus(status) => Self::of_status(status, endpoint),
            Error::LeaseKeepAliveError(why) if why == "lease not found" => Self::no_lease(endpoint),
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::TransportError(_) => {
                let why = format!("etcd endpoint {endpoint} cannot be used: {}", chain(error));
                Self::new(BackendError::new(Kind::Misconfigured, why))
            }
            error => Self::broken(endpoint, &chain(error)),
        }
    }

    fn of_status(status: &tonic::Status, endpoint: &str) -> Self {
        let message = status.message();
        let told = |kind, advice: &str| {
            let why = format!("etcd at {endpoint} refused: {message}: {advice}");
            Self::new(BackendError::new(kind, why))
        };
        if sources(status).any(|source| source.is::<ConnectError>()) {
            return Self::unreachable(endpoint, &chain(status));
        }
        match status.code() {
            Code::NotFound if message.contains("lease not found") => Self::no_lease(endpoint),
            Code::PermissionDenied => told(
                Kind::Denied,
                "give the user's role read and write permission for the prefix of this namespace (docs/backends/etcd.md)",
            ),
            Code::Unauthenticated => told(Kind::Denied, "check the user's name and password"),
            Code::InvalidArgument if message.contains("authentication failed") => {
                told(Kind::Denied, "check the user's name and password")
            }
            Code::InvalidArgument if message.contains("user name is empty") => {
                told(Kind::Denied, "this cluster asks for a user: name one, with its password")
            }
            Code::FailedPrecondition if message.contains("authentication is not enabled") => told(
                Kind::Misconfigured,
                "this cluster has no users: leave the user out, or enable authentication",
            ),
            Code::ResourceExhausted if message.contains("space exceeded") => told(
                Kind::Unavailable,
                "its database has reached its quota: compact, defragment and `etcdctl alarm disarm`, or raise the quota",
            ),
            Code::ResourceExhausted => told(Kind::Unavailable, "it has too much to do: try again"),
            Code::Unimplemented => {
                told(Kind::Misconfigured, "this is no etcd 3.4 or later: check the endpoint")
            }
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => {
                told(Kind::Misconfigured, "check the server's version and limits")
            }
            Code::Unavailable if message == "etcdserver: no leader" => {
                let advice = "too few members of the cluster see each other: try again";
                Self { elsewhere: true, ..told(Kind::Unavailable, advice) }
            }
            _ => Self::broken(endpoint, &chain(status)),
        }
    }

    fn no_lease(endpoint: &str) -> Self {
        let why = format!("etcd at {endpoint} does not know this process's session any more");
        Self { no_lease: true, ..Self::new(BackendError::new(Kind::Unavailable, why)) }
    }

    /// Nothing was sent.
    fn unreachable(endpoint: &str, why: &str) -> Self {
        let untrusted = ["certificate", "alert", "handshake"].iter().any(|word| why.contains(word));
        let (kind, advice) = if untrusted {
            (Kind::Misconfigured, "check the certificates, and that the name in them is this one")
        } else {
            (Kind::Unavailable, "is it running, and is the address right?")
        };
        let why = format!("cannot connect to etcd at {endpoint}: {why}: {advice}");
        Self { elsewhere: true, ..Self::new(BackendError::new(kind, why)) }
    }

    /// The request may have been carried out.
    fn broken(endpoint: &str, why: &str) -> Self {
        if why.contains("received fatal alert") {
            // TLS was not agreed on, so nothing was heard there.
            return Self::unreachable(endpoint, why);
        }
        let why = format!("etcd at {endpoint} gave no answer: {why}");
        let error = BackendError::new(Kind::Unavailable, why).effect_unknown();
        Self { elsewhere: true, broken: true, ..Self::new(error) }
    }

    /// The same, of somebody who has never answered anything.
    pub(super) fn never_heard(self) -> Self {
        let why = format!(
            "{}: it has never answered anything: is it etcd, is the scheme right, does it ask for a client certificate?",
            self.error
        );
        let error = BackendError::new(self.error.kind(), why).effect_unknown();
        Self { error, ..self }
    }

    /// Somebody else listens there.
    pub(super) fn foreign(endpoint: &str, what: &str) -> Self {
        let why = format!(
            "what listens at {endpoint} is no etcd, or needs https://: it says \"{what}\": check port and scheme"
        );
        Self { elsewhere: true, ..Self::new(BackendError::new(Kind::Misconfigured, why)) }
    }
}

fn sources<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(error.source(), |&error| error.source())
}

/// The error and its sources, each said once.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut said = match error.downcast_ref::<tonic::Status>() {
        // Its own text is a dump of its metadata.
        Some(status) => status.message().to_owned(),
        None => error.to_string(),
    };
    for source in sources(error) {
        let more = source.to_string();
        if !said.contains(&more) {
            said = format!("{said}: {more}");
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_is_told_with_what_to_do_and_without_effect() {
        for (code, message, kind, advice) in [
            (Code::PermissionDenied, "etcdserver: permission denied", Kind::Denied, "role"),
            (Code::Unauthenticated, "etcdserver: invalid auth token", Kind::Denied, "password"),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Kind::Denied,
                "password",
            ),
            (Code::InvalidArgument, "etcdserver: user name is empty", Kind::Denied, "name one"),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                Kind::Misconfigured,
                "leave the user out",
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Kind::Unavailable,
                "defragment",
            ),
            (Code::ResourceExhausted, "etcdserver: too many requests", Kind::Unavailable, "again"),
            (Code::Unavailable, "etcdserver: no leader", Kind::Unavailable, "members"),
            (Code::Unimplemented, "unknown service", Kind::Misconfigured, "endpoint"),
        ] {
            let fault = Fault::of(&Error::GRpcStatus(tonic::Status::new(code, message)), "e");
            assert_eq!(
                (fault.error.kind(), fault.error.effect()),
                (kind, Effect::None),
                "{message}"
            );
            let text = fault.error.to_string();
            assert!(text.contains(message) && text.contains(advice), "{text}");
        }
    }

    #[test]
    fn what_may_have_been_carried_out_is_told_so() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unknown, "transport error"),
            (Code::Cancelled, "operation was canceled"),
            (Code::DeadlineExceeded, "context deadline exceeded"),
        ] {
            let fault = Fault::of(&Error::GRpcStatus(tonic::Status::new(code, message)), "e");
            assert!(fault.error.kind().is_transient() && fault.elsewhere, "{message}");
            assert_eq!(fault.error.effect(), Effect::Unknown, "{message}");
        }
        let gone = tonic::Status::not_found("etcdserver: requested lease not found");
        let fault = Fault::of(&Error::GRpcStatus(gone), "e");
        assert!(fault.no_lease && fault.error.effect() == Effect::None);
    }
}
