//! A client of one member.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Error};

use crate::config::{Config, Secret};

/// etcd closes connections that are pinged more often than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(6);
const PONG_WITHIN: Duration = Duration::from_secs(2);

/// Connects, and logs in where there is a user. To be run on the keeper's thread, which will carry the connection.
pub(super) async fn connect(config: &Config, endpoint: &str) -> Result<Client, Error> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(config.request_timeout)
        .with_keep_alive(PING_EVERY, PONG_WITHIN)
        .with_keep_alive_while_idle(true)
        // A member that is cut off from the others refuses at once, and ends its streams.
        .with_require_leader(true);
    if let Some((name, Secret(password))) = &config.user {
        options = options.with_user(name, password).with_auto_token_refresh(true);
    }
    #[cfg(feature = "tls")]
    if endpoint.starts_with("https://") {
        options = options.with_tls(tls(config.tls.as_ref()));
    }
    Client::connect([endpoint], Some(options)).await
}

#[cfg(feature = "tls")]
fn tls(ours: Option<&crate::tls::Tls>) -> etcd_client::TlsOptions {
    use etcd_client::{Certificate, Identity, TlsOptions};

    let mut options = TlsOptions::new();
    match ours.and_then(|tls| tls.authority.as_ref()) {
        Some(pem) => options = options.ca_certificate(Certificate::from_pem(pem)),
        None => options = options.with_native_roots(),
    }
    if let Some((certificate, key)) = ours.and_then(|tls| tls.identity.as_ref()) {
        options = options.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = ours.and_then(|tls| tls.name.as_ref()) {
        options = options.domain_name(name);
    }
    options
}
