//! An authority of a test's own, and the certificates that it signs.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

pub(crate) fn ca(dir: &Path) -> PathBuf {
    dir.join("ca.pem")
}

pub(crate) fn server_certificate(dir: &Path) -> PathBuf {
    dir.join("server.pem")
}

pub(crate) fn server_key(dir: &Path) -> PathBuf {
    dir.join("server.key")
}

pub(crate) fn client_certificate(dir: &Path) -> PathBuf {
    dir.join("client.pem")
}

pub(crate) fn client_key(dir: &Path) -> PathBuf {
    dir.join("client.key")
}

/// Makes an authority, a server's certificate for this host and a client's one, all in `dir`. The authority's key is thrown away.
///
/// # Panics
///
/// If the files cannot be written.
pub(crate) fn issue(dir: &Path) {
    let (authority, authority_key) = (params("solocron test authority", &[]), key());
    let mut authority = authority;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let certificate = authority.self_signed(&authority_key).expect("good parameters are signed");
    write(&ca(dir), &certificate.pem());
    let issuer = Issuer::new(authority, authority_key);

    let here = ["localhost", "127.0.0.1"];
    for (name, hosts, use_for, certificate_file, key_file) in [
        // A member of an etcd is also a client of others.
        (
            "server",
            &here[..],
            ExtendedKeyUsagePurpose::ServerAuth,
            server_certificate(dir),
            server_key(dir),
        ),
        (
            "client",
            &[],
            ExtendedKeyUsagePurpose::ClientAuth,
            client_certificate(dir),
            client_key(dir),
        ),
    ] {
        let (mut params, key) = (params(name, hosts), key());
        params.extended_key_usages = vec![use_for];
        let certificate = params.signed_by(&key, &issuer).expect("good parameters are signed");
        write(&certificate_file, &certificate.pem());
        write(&key_file, &key.serialize_pem());
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<_> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("these are names of hosts");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("the operating system gives random bytes")
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("the server's directory can be written");
}
