//! Where the server that takes writes is: at one address, at the node of a cluster that has our slot, or where sentinels say.
//!
//! ```text
//!   redis:// rediss:// redis+unix://      the address
//!   redis-cluster://a:1,b:2               a node; if it has not our slot, the one that it names (MOVED)
//!   redis-sentinel://a:1,b:2/name/db      SENTINEL get-master-addr-by-name, of the first sentinel that answers
//! ```
//!
//! All keys of a namespace share a slot, so that one connection to one node is enough on a cluster too. The way is found anew for
//! every connection.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo};
use solocron::Invalid;

/// Who to ask for the server.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// Nobody: it is there.
    Server(ConnectionAddr),
    /// The nodes of a cluster.
    Cluster(Vec<ConnectionAddr>),
    /// The sentinels of a primary of this name.
    Sentinel(Vec<ConnectionAddr>, String),
}

/// An URL, read.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) route: Route,
    pub(crate) login: RedisConnectionInfo,
}

const FORMS: &str = "write redis://host:port/db, rediss:// (TLS), redis+unix:///path?db=0, redis-cluster://host:port,host:port or redis-sentinel://host:port,host:port/name/db";

impl Target {
    /// No error repeats the URL: it may hold a password.
    pub(crate) fn read(url: &str) -> Result<Self, Invalid> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let shown = format!("{scheme}://…");
        let invalid = |why: &str| Invalid::new("redis url", &shown, why.to_owned());
        let known = scheme.replacen("valkey", "redis", 1);
        let (tls, kind) = match known.as_str() {
            "redis" | "unix" | "redis+unix" => (false, ""),
            "rediss" => (true, ""),
            "redis-cluster" => (false, "cluster"),
            "rediss-cluster" | "rediss+cluster" => (true, "cluster"),
            "redis-sentinel" => (false, "sentinel"),
            "rediss-sentinel" => (true, "sentinel"),
            _ if rest.contains('@') => return Err(Invalid::new("redis url", "…", FORMS)),
            _ => return Err(Invalid::new("redis url", url, FORMS)),
        };
        if rest.ends_with("#insecure") {
            return Err(invalid(
                "certificates are always verified: give your authority with tls()",
            ));
        }
        if tls && !cfg!(feature = "tls") {
            return Err(invalid(
                "this build speaks no TLS: enable the feature `tls` of solocron-redis",
            ));
        }
        if kind.is_empty() {
            let info = one(url, &shown)?;
            return Ok(Self {
                route: Route::Server(info.addr().clone()),
                login: info.redis_settings().clone(),
            });
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (format!("{user}@"), hosts),
            None => (String::new(), authority),
        };
        let (name, db) = match kind {
            "sentinel" => path.split_once('/').unwrap_or((path, "")),
            _ => ("", path),
        };
        if kind == "sentinel" && name.is_empty() {
            return Err(invalid(
                "name the primary that the sentinels watch: redis-sentinel://host:port/name",
            ));
        }
        let plain = if tls { "rediss" } else { "redis" };
        let infos = hosts
            .split(',')
            .map(|host| one(&format!("{plain}://{user}{host}/{db}"), &shown))
            .collect::<Result<Vec<_>, _>>()?;
        let login = infos[0].redis_settings().clone();
        let addresses = infos.iter().map(|info| info.addr().clone()).collect();
        if kind == "cluster" && login.db() != 0 {
            return Err(invalid("a cluster has database 0 only"));
        }
        let route = match kind {
            "cluster" => Route::Cluster(addresses),
            _ => Route::Sentinel(addresses, name.to_owned()),
        };
        Ok(Self { route, login })
    }
}

fn one(url: &str, shown: &str) -> Result<ConnectionInfo, Invalid> {
    url.into_connection_info().map_err(|error| {
        // What redis says of an URL is a fixed text.
        let why = if error.to_string().contains("database") {
            "the last part of the path is the number of the database: write /0"
        } else {
            "write scheme://user:password@host:port/db, with reserved characters percent-encoded"
        };
        Invalid::new("redis url", shown, why)
    })
}

impl Route {
    /// What to call it in a message.
    pub(crate) fn name(&self, db: i64) -> String {
        let list = |addresses: &[ConnectionAddr]| {
            addresses.iter().map(address).collect::<Vec<_>>().join(",")
        };
        match self {
            Self::Server(server) => format!("{} db {db}", address(server)),
            Self::Cluster(nodes) => format!("cluster {}", list(nodes)),
            Self::Sentinel(sentinels, name) => {
                format!("{name} db {db} of sentinels {}", list(sentinels))
            }
        }
    }
}

pub(crate) fn address(address: &ConnectionAddr) -> String {
    match address {
        ConnectionAddr::Unix(path) => path.display().to_string(),
        other => other.to_string(),
    }
}

/// Another host and port, to be reached as this one is.
pub(crate) fn beside(address: &ConnectionAddr, host: &str, port: u16) -> ConnectionAddr {
    let own = match address {
        ConnectionAddr::Tcp(own, _) | ConnectionAddr::TcpTls { host: own, .. } => own.as_str(),
        _ => "localhost",
    };
    // A node that does not know its own name leaves it out.
    let host = if host.is_empty() { own } else { host }.trim_matches(['[', ']']).to_owned();
    match address {
        ConnectionAddr::TcpTls { .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// The node that a server names instead of itself: `slot host:port`.
pub(crate) fn moved(from: &ConnectionAddr, to: &str) -> Option<ConnectionAddr> {
    let (host, port) = to.rsplit_once(':')?;
    Some(beside(from, host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Target {
        Target::read(url).unwrap()
    }

    #[test]
    fn each_form_of_url_is_a_route() {
        assert_eq!(read("redis://h:1/2").route.name(2), "h:1 db 2");
        assert_eq!(read("valkey://h").route.name(0), "h:6379 db 0");
        assert_eq!(read("redis+unix:///run/redis.sock?db=3").route.name(3), "/run/redis.sock db 3");
        let cluster = read("redis-cluster://app:p%40ss@a:1,b:2");
        assert_eq!(cluster.route.name(0), "cluster a:1,b:2");
        assert_eq!(
            (cluster.login.username(), cluster.login.password()),
            (Some("app"), Some("p@ss"))
        );
        let sentinel = read("redis-sentinel://:pw@a:1,b:2/main/4");
        assert_eq!(sentinel.route.name(4), "main db 4 of sentinels a:1,b:2");
        assert_eq!((sentinel.login.password(), sentinel.login.db()), (Some("pw"), 4));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (url, part) in [
            ("redis-sentinel://a:1", "name the primary"),
            ("redis-cluster://a:1/3", "database 0"),
            ("redis-cluster://a:1,:x", "percent-encoded"),
            ("redis-sentinel://a:1/main/x", "number of the database"),
            ("memcached://a", "redis-cluster://"),
        ] {
            let error = Target::read(url).unwrap_err().to_string();
            assert!(error.contains(part), "{url}: {error}");
        }
    }

    #[test]
    fn a_node_that_is_named_is_reached_as_the_one_that_named_it() {
        let from = ConnectionAddr::Tcp("a".to_owned(), 1);
        assert_eq!(moved(&from, "b:2"), Some(ConnectionAddr::Tcp("b".to_owned(), 2)));
        assert_eq!(moved(&from, ":2"), Some(ConnectionAddr::Tcp("a".to_owned(), 2)));
        assert_eq!(moved(&from, "[::1]:2"), Some(ConnectionAddr::Tcp("::1".to_owned(), 2)));
        assert_eq!(moved(&from, "nonsense"), None);
    }
}
