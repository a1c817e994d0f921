//! What the examples share: locks from a URL, so that one program runs over any backend.

use std::error::Error;

use solocron::Locks;
use solocron::lock::{LockBackend, LockOptions};

/// Errors of the examples.
pub type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The locks that `url` names, with these options.
///
/// | URL | locks |
/// |---|---|
/// | `flock:/var/lib/app/locks` | files in a directory |
/// | `socket:app` | abstract sockets of that namespace; `socket:app?/var/lib/app/state` keeps marks in a directory |
/// | `redis://host:6379`, `rediss://`, `redis+unix:///path` | a Redis; needs `--features redis` |
/// | `etcd://host:2379,host:2379/app` | an etcd cluster; needs `--features etcd`, and `protoc` to build |
///
/// # Errors
///
/// Where the URL is not understood, its backend was not compiled in, or the backend refuses it.
pub async fn open(url: &str, options: LockOptions) -> Result<Locks> {
    let scheme = url.split_once(':').map_or(url, |(scheme, _)| scheme);
    let rest = || url.split_once(':').map_or("", |(_, rest)| rest);
    match scheme {
        "flock" => locks(solocron_flock::FlockBackend::open(rest())?, options),
        "socket" => {
            use solocron_socket::SocketBackend;
            let backend = match rest().split_once('?') {
                Some((name, dir)) => SocketBackend::builder(name).state_dir(dir).build()?,
                None => SocketBackend::new(rest())?,
            };
            locks(backend, options)
        }
        #[cfg(feature = "redis")]
        "redis" | "rediss" | "redis+unix" | "unix" => {
            locks(solocron_redis::RedisBackend::connect(url).await?, options)
        }
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => locks(solocron_etcd::EtcdBackend::from_url(url)?, options),
        #[cfg(not(feature = "redis"))]
        "redis" | "rediss" | "redis+unix" | "unix" => {
            Err(format!("{scheme}: this program was built without redis: add --features redis").into())
        }
        #[cfg(not(feature = "etcd"))]
        "etcd" | "etcds" => {
            Err(format!("{scheme}: this program was built without etcd: add --features etcd").into())
        }
        _ => Err(format!(
            "{scheme:?} is no backend: write flock:/DIR, socket:NAME, redis://HOST or etcd://HOST/NAME"
        )
        .into()),
    }
}

fn locks(backend: impl LockBackend, options: LockOptions) -> Result<Locks> {
    Ok(Locks::builder(backend).options(options).build()?)
}

/// `url` without user, password and query, for the screen. (What stands on a command line can be seen by everybody on the machine all
/// the same; a real program reads its URL from a file or its environment.)
#[must_use]
pub fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let rest = rest.split('?').next().unwrap_or(rest);
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://…@{host}"),
        None => format!("{scheme}://{rest}"),
    }
}

/// The value of `--name VALUE` among the program's arguments.
///
/// # Errors
///
/// Where the value is missing, or there is anything else.
pub fn argument(name: &str) -> Result<Option<String>> {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next(), arguments.next(), arguments.next()) {
        (None, ..) => Ok(None),
        (Some(flag), Some(value), None) if flag == name => Ok(Some(value)),
        (Some(flag), ..) => {
            Err(format!("unexpected {flag:?}: the only argument is {name} VALUE").into())
        }
    }
}
