//! Certificates.

use std::fmt;

/// Certificates for `https://` endpoints, as PEM text.
///
/// The server's name is checked against its certificate, always; TLS 1.2 is the oldest that is spoken.
#[derive(Clone, Default)]
pub struct Tls {
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(crate) name: Option<String>,
}

impl Tls {
    /// The operating system's authorities, no client certificate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts this authority (one or more certificates), and no other.
    #[must_use]
    pub fn authority(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(pem.into());
        self
    }

    /// Shows this certificate to the server, which knows it by its private key.
    #[must_use]
    pub fn client_certificate(
        mut self,
        certificate: impl Into<Vec<u8>>,
        private_key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((certificate.into(), private_key.into()));
        self
    }

    /// The name that must stand in the server's certificate. Default: the host of the endpoint.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}

/// Whether there is a private key, and not which.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("authority", &self.authority.is_some())
            .field("client_certificate", &self.identity.is_some())
            .field("server_name", &self.name)
            .finish()
    }
}
