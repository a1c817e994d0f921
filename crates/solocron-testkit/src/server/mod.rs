//! Real servers as child processes, each with its own data on its own free port, and gone with the test: when it ends, when it
//! panics, when it is killed. Linux only.
//!
//! They are driven without any client library: Redis over its own protocol, etcd over its JSON gateway. Their data lies in memory
//! (`/dev/shm`) where there is room, so that no test waits for a disk. What they need is installed by `scripts/setup`.

mod etcd;
mod http;
mod port;
mod process;
mod redis;
mod resp;
mod scratch;
#[cfg(feature = "tls")]
mod tls;

pub use self::etcd::{EtcdBuilder, EtcdCluster, EtcdServer, EtcdVersion};
pub(crate) use self::port::Port;
pub use self::redis::{RedisBuilder, RedisCluster, RedisServer};
pub use self::resp::Value;
pub use crate::proxy::{Direction, Proxy};
