//! Options, checked in one place before anything is sent.

use std::fmt;
use std::time::Duration;

use solocron::{BackendError, Error, Invalid, Kind};

use crate::backend::EtcdBackend;
#[cfg(feature = "tls")]
use crate::tls::Tls;

/// Options of an [`EtcdBackend`].
///
/// ```
/// use solocron_etcd::EtcdBackend;
///
/// let members = ["http://10.0.0.1:2379", "http://10.0.0.2:2379", "http://10.0.0.3:2379"];
/// let backend = EtcdBackend::builder("billing", members).user("billing", "secret").build()?;
/// # Ok::<(), solocron::Error>(())
/// ```
#[derive(Clone)]
pub struct EtcdBuilder {
    namespace: String,
    endpoints: Vec<String>,
    user: Option<(String, Secret)>,
    #[cfg(feature = "tls")]
    tls: Option<Tls>,
    request_timeout: Duration,
}

/// Checked options.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) namespace: String,
    pub(crate) endpoints: Vec<String>,
    pub(crate) user: Option<(String, Secret)>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Tls>,
    pub(crate) request_timeout: Duration,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl EtcdBuilder {
    pub(crate) fn new(
        namespace: impl Into<String>,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            #[cfg(feature = "tls")]
            tls: None,
            request_timeout: Duration::from_millis(500),
        }
    }

    /// The etcd user to be, with its password. Its token is refreshed when it has expired.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), Secret(password.into())));
        self
    }

    /// Certificates for `https://` endpoints. Default: the operating system's authorities, and no client certificate.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long one member may take to answer before another one is asked. Default 500 ms.
    ///
    /// Larger: a member that hangs is left later. Smaller: a slow one is left too early, and its answers are lost. Keep it below the
    /// locks' own request timeout (a sixth of the ttl, at most 1 s).
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// The backend. Sends nothing: it connects when it is first used.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], saying what to do, where an option is wrong or options contradict each other; [`Error::Backend`] where the
    /// operating system gives no thread to keep the session on.
    pub fn build(self) -> solocron::Result<EtcdBackend> {
        let config = self.check()?;
        EtcdBackend::new(config).map_err(|error| Error::Backend {
            doing: "start the thread that keeps the session with etcd",
            key: None,
            source: BackendError::new(Kind::Unavailable, error),
        })
    }

    fn check(self) -> Result<Config, Invalid> {
        const TIMEOUTS: std::ops::RangeInclusive<Duration> =
            Duration::from_millis(10)..=Duration::from_secs(60);
        check_namespace(&self.namespace)?;
        if self.endpoints.is_empty() {
            let why = "name at least one member of the cluster, as http://host:2379";
            return Err(Invalid::new("etcd endpoints", "", why));
        }
        let mut secure = 0;
        for endpoint in &self.endpoints {
            secure += usize::from(check_endpoint(endpoint)?);
        }
        if secure != 0 && secure != self.endpoints.len() {
            let why =
                "some endpoints are http:// and some https://: use one scheme for all members";
            return Err(Invalid::new("etcd endpoints", self.endpoints.join(" "), why));
        }
        #[cfg(feature = "tls")]
        if self.tls.is_some() && secure == 0 {
            let why = "certificates are of no use without https:// endpoints: change the scheme";
            return Err(Invalid::new("etcd endpoints", self.endpoints.join(" "), why));
        }
        if let Some((name, _)) = &self.user
            && name.is_empty()
        {
            return Err(Invalid::new("etcd user", "", "name the user, or leave it out"));
        }
        if !TIMEOUTS.contains(&self.request_timeout) {
            let why = format!("choose between {:?} and {:?}", TIMEOUTS.start(), TIMEOUTS.end());
            return Err(Invalid::new(
                "request_timeout",
                format_args!("{:?}", self.request_timeout),
                why,
            ));
        }
        let Self { namespace, endpoints, user, request_timeout, .. } = self;
        Ok(Config {
            namespace,
            endpoints,
            user,
            #[cfg(feature = "tls")]
            tls: self.tls,
            request_timeout,
        })
    }
}

impl fmt::Debug for EtcdBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An endpoint that was not checked yet may hold a password.
        f.debug_struct("EtcdBuilder")
            .field("namespace", &self.namespace)
            .field("endpoints", &self.endpoints.len())
            .field("user", &self.user)
            .field("request_timeout", &self.request_timeout)
            .finish_non_exhaustive()
    }
}

impl EtcdBackend {
    /// The locks of `namespace` in the cluster that these members belong to. All processes that share locks name the same
    /// namespace: letters, digits and `. _ -`, with `/` between parts. An endpoint is `http://host:port` or `https://host:port`.
    ///
    /// With several endpoints one member is asked at a time, and the next one when it fails.
    pub fn builder(
        namespace: impl Into<String>,
        endpoints: impl IntoIterator<Item = impl Into<String>>,
    ) -> EtcdBuilder {
        EtcdBuilder::new(namespace, endpoints)
    }

    /// The backend of a URL: `etcd://user:password@host:port,host:port/namespace`, or `etcds://` for TLS with the operating system's
    /// authorities. User, password and ports (2379) may be left out. In names and passwords, `%` and two hexadecimal digits stand
    /// for a byte.
    ///
    /// # Errors
    ///
    /// As [`EtcdBuilder::build`]. No error repeats a password.
    ///
    /// ```
    /// let backend = solocron_etcd::EtcdBackend::from_url("etcd://10.0.0.1,10.0.0.2:2379/billing")?;
    /// assert!(solocron_etcd::EtcdBackend::from_url("redis://10.0.0.1/billing").is_err());
    /// # Ok::<(), solocron::Error>(())
    /// ```
    pub fn from_url(url: &str) -> solocron::Result<Self> {
        parse_url(url)?.build()
    }
}

fn parse_url(url: &str) -> Result<EtcdBuilder, Invalid> {
    const FORM: &str = "write etcd://host:port,host:port/namespace (etcds:// for TLS)";
    let wrong = |part: &str, why: &str| Invalid::new("etcd url", part, format!("{why}: {FORM}"));
    let (scheme, rest) = url.split_once("://").ok_or_else(|| wrong("", "it has no scheme"))?;
    let http = match scheme {
        "etcd" => "http",
        "etcds" => "https",
        other => return Err(wrong(other, "this is not the scheme of etcd")),
    };
    // A password may hold anything, and so the last `@` counts, and everything before it is a secret.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, rest),
    };
    let (hosts, namespace) =
        rest.split_once('/').ok_or_else(|| wrong(rest, "it names no namespace"))?;
    let endpoints = hosts.split(',').map(|host| {
        // A port is what follows the last colon behind any `]` of an IPv6 address.
        let named = host.rsplit(']').next().is_some_and(|rest| rest.contains(':'));
        format!("{http}://{host}{}", if named { "" } else { ":2379" })
    });
    let mut builder = EtcdBuilder::new(namespace.trim_end_matches('/'), endpoints);
    if let Some(user) = user {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let decoded = |text| {
            decode(text).ok_or_else(|| wrong("***", "its user or password is badly escaped"))
        };
        builder = builder.user(decoded(name)?, decoded(password)?);
    }
    Ok(builder)
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

fn check_namespace(namespace: &str) -> Result<(), Invalid> {
    const LONGEST: usize = 200;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let part_is_good = |part: &str| !part.is_empty() && part.chars().all(plain);
    if namespace.len() <= LONGEST && namespace.split('/').all(part_is_good) {
        return Ok(());
    }
    let why = "give the fleet a name of its own, of up to 200 letters, digits and . _ -, with / between parts";
    Err(Invalid::new("etcd namespace", namespace, why))
}

/// Whether it is a secure one.
fn check_endpoint(endpoint: &str) -> Result<bool, Invalid> {
    // Whatever stands before an `@` may be a password.
    let shown = endpoint.rsplit('@').next().unwrap_or_default();
    let wrong = |why: &'static str| Err(Invalid::new("etcd endpoint", shown, why));
    if endpoint.contains('@') {
        return wrong("it holds a user: name that with EtcdBuilder::user");
    }
    let (secure, host) = match endpoint.split_once("://") {
        Some(("http", host)) => (false, host),
        Some(("https", host)) => (true, host),
        _ => return wrong("write http://host:port, or https://host:port"),
    };
    if secure && !cfg!(feature = "tls") {
        return wrong("https needs the feature `tls` of solocron-etcd: enable it");
    }
    let host = host.strip_suffix('/').unwrap_or(host);
    let Some((name, port)) = host.rsplit_once(':') else {
        return wrong("it names no port: etcd listens for clients on 2379");
    };
    if name.is_empty() || host.contains(['/', '?', '#', ' ', '\\']) {
        return wrong("write http://host:port, with nothing behind the port");
    }
    match port.parse::<u16>() {
        Ok(1..) => Ok(secure),
        _ => wrong("its port is no number from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(namespace: &str, endpoints: &[&str]) -> Result<Config, String> {
        let builder = EtcdBuilder::new(namespace, endpoints.iter().copied());
        builder.check().map_err(|error| error.to_string())
    }

    #[test]
    fn wrong_endpoints_are_refused_with_what_to_do() {
        for (endpoint, advice) in [
            ("", "http://host:port"),
            ("127.0.0.1:2379", "http://host:port"),
            ("redis://127.0.0.1:2379", "http://host:port"),
            ("http://127.0.0.1", "2379"),
            ("http://127.0.0.1:0", "65535"),
            ("http://127.0.0.1:99999", "65535"),
            ("http://127.0.0.1:23x", "65535"),
            ("http://:2379", "nothing behind"),
            ("http://a:2379/x", "nothing behind"),
            ("http://a b:2379", "nothing behind"),
        ] {
            let error = check("a", &[endpoint]).unwrap_err();
            assert!(error.contains(advice), "{endpoint}: {error}");
        }
        assert!(check("a", &[]).unwrap_err().contains("at least one"));
        assert!(check("a", &["http://[::1]:2379", "http://b:2379/"]).is_ok());
        let mixed = check("a", &["http://a:2379", "https://b:2379"]).unwrap_err();
        assert!(mixed.contains("one scheme") || mixed.contains("feature `tls`"), "{mixed}");
    }

    #[test]
    fn wrong_namespaces_are_refused() {
        let long = "x".repeat(201);
        for namespace in ["", "/", "a/", "/a", "a//b", "a b", "☾", "a\n", &long] {
            assert!(check(namespace, &["http://a:1"]).unwrap_err().contains("namespace"));
        }
        assert!(check("Team-1/billing_2.0", &["http://a:1"]).is_ok());
    }

    #[test]
    fn a_url_is_taken_apart() {
        let builder =
            parse_url("etcd://app:p%40ss%2Fw:x@h1,h2:1,[::1],[::1]:7/team/billing").unwrap();
        let config = builder.check().unwrap();
        assert_eq!(config.namespace, "team/billing");
        assert_eq!(
            config.endpoints,
            ["http://h1:2379", "http://h2:1", "http://[::1]:2379", "http://[::1]:7"]
        );
        assert_eq!(config.user, Some(("app".to_owned(), Secret("p@ss/w:x".to_owned()))));
        for (url, why) in [
            ("localhost:2379/a", "no scheme"),
            ("http://h/a", "not the scheme"),
            ("etcd://h", "no namespace"),
            ("etcd://u:%zz@h/a", "escaped"),
        ] {
            let error = parse_url(url).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("etcds://"), "{error}");
        }
        assert!(parse_url("etcd://h/").unwrap().check().is_err());
    }

    #[test]
    fn no_text_holds_the_password() {
        const CANARY: &str = "hunter2";
        let builder = EtcdBuilder::new("a", ["http://h:2379"]).user("app", CANARY);
        assert!(!format!("{builder:?}").contains(CANARY));
        assert!(!format!("{:?}", builder.check().unwrap()).contains(CANARY));
        let hidden = EtcdBuilder::new("a", [format!("http://app:{CANARY}@h:2379")]);
        assert!(!format!("{hidden:?}").contains(CANARY));
        assert!(!hidden.check().unwrap_err().to_string().contains(CANARY));
        for url in ["etcd://u:hunter2@h", "etcd://u:hunter2%zz@h/a", "http://u:hunter2@h/a"] {
            assert!(!parse_url(url).unwrap_err().to_string().contains(CANARY), "{url}");
        }
    }
}
