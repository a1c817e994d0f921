//! `https://` endpoints.

use std::fs::read;
use std::sync::Arc;
use std::time::Duration;

use solocron::lock::{LockBackend, MarkAfter};
use solocron::{Effect, Kind};
use solocron_etcd::{EtcdBackend, Tls};
use solocron_testkit::server::EtcdServer;

use crate::client::{attempt, locks, plain};
use crate::store::patient;

const LONG: Duration = Duration::from_secs(60);

fn connect(server: &EtcdServer, tls: Tls) -> EtcdBackend {
    patient(EtcdBackend::builder("test", [server.endpoint()])).tls(tls).build().unwrap()
}

fn trusting(server: &EtcdServer) -> Tls {
    Tls::new().authority(read(server.ca_file()).unwrap())
}

#[tokio::test]
async fn a_server_with_a_certificate_is_trusted_by_its_authority_and_its_name() {
    let server = EtcdServer::builder().tls().start();
    let backend = connect(&server, trusting(&server));
    let guard = locks(&backend, 10).try_lock("lock").await.unwrap().won().unwrap();
    guard.release().await.unwrap();
    // Under another name, and by nobody who knows it.
    for tls in [trusting(&server).server_name("elsewhere.example"), Tls::new()] {
        let error = attempt(&connect(&server, tls), &plain("lock", LONG)).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Misconfigured, Effect::None), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_one() {
    let server = EtcdServer::builder().client_certificates().start();
    let (certificate, key) =
        (read(server.certificate_file()).unwrap(), read(server.key_file()).unwrap());
    let tls = trusting(&server).client_certificate(certificate, key.clone());
    assert!(!format!("{tls:?}").contains("PRIVATE KEY"));
    let backend = connect(&server, tls);
    assert!(!format!("{backend:?}").contains("PRIVATE KEY"));
    let request = plain("lock", LONG);
    let solocron::lock::Reply::Won(grant) = attempt(&backend, &request).await.unwrap() else {
        panic!("it is free")
    };
    backend.release(&grant.lease, MarkAfter::Done).await.unwrap();
    let error = attempt(&connect(&server, trusting(&server)), &plain("lock", LONG)).await;
    let error = error.unwrap_err();
    // It says so, or it closes the connection for whatever reason.
    assert!(matches!(error.kind(), Kind::Misconfigured | Kind::Unavailable), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn the_wrong_scheme_is_told() {
    let secure = Arc::new(EtcdServer::builder().tls().start());
    let plainly = secure.endpoint().replace("https://", "http://");
    let backend = EtcdBackend::builder("test", [plainly]).build().unwrap();
    let error = attempt(&backend, &plain("lock", LONG)).await.unwrap_err();
    // It closes the connection, for whatever reason.
    assert!(error.to_string().contains("scheme"), "{error}");
    let open = EtcdServer::start();
    let securely = open.endpoint().replace("http://", "https://");
    let tls = trusting(&secure);
    let backend = EtcdBackend::builder("test", [securely]).tls(tls).build().unwrap();
    let error = attempt(&backend, &plain("lock", LONG)).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Misconfigured, "{error}");
}

#[tokio::test]
async fn a_broken_certificate_is_told_before_anything_is_sent() {
    let server = EtcdServer::builder().tls().start();
    for tls in [
        Tls::new().authority("no certificate"),
        trusting(&server).client_certificate("no certificate", "no key"),
    ] {
        let error = attempt(&connect(&server, tls), &plain("lock", LONG)).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (Kind::Misconfigured, Effect::None), "{error}");
    }
}
