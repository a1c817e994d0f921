//! Fencing that etcd checks itself.

/// Holds for as long as a lock is held by the winner with this fence: put it into your own transactions.
///
/// With the feature `client-types` it turns into an `etcd_client::Compare`; other clients have a function for it, too: in Go,
/// `clientv3.Compare(clientv3.CreateRevision(key), "=", revision)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FenceCompare {
    /// The lock's key.
    pub key: Vec<u8>,
    /// Its create revision must be equal to this.
    pub create_revision: i64,
}

#[cfg(feature = "client-types")]
impl From<FenceCompare> for etcd_client::Compare {
    fn from(FenceCompare { key, create_revision }: FenceCompare) -> Self {
        Self::create_revision(key, etcd_client::CompareOp::Equal, create_revision)
    }
}
