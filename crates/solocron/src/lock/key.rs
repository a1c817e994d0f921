//! Names: of a lock, of an acquisition, of a node.

use std::fmt;
use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::error::Invalid;

/// The name of a lock; for a job, its id.
///
/// Any text of 1 to 1024 bytes. What reaches a path, a key or an address is [`slug`](Self::slug), never the text itself; records
/// hold the whole name, so that two names which met in one slug would be an error, not a shared lock.
///
/// ```
/// use solocron::lock::LockKey;
/// let key = LockKey::new("billing/nightly report ☾")?;
/// assert!(key.slug().starts_with("billing_nightly_report"));
/// assert!(LockKey::new("").is_err());
/// # Ok::<(), solocron::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockKey(Arc<str>);

impl LockKey {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 1024;

    /// Names that begin with this belong to solocron itself. Locks, claims and jobs of such a name are refused.
    pub const RESERVED: &str = "solocron:";

    /// A lock of this name.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where the name is empty or longer than [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, Invalid> {
        let name: Arc<str> = name.into();
        if name.is_empty() {
            return Err(Invalid::new(
                "lock key",
                "",
                "a name must not be empty: give the job or the lock a stable name of its own",
            ));
        }
        if name.len() > Self::MAX_BYTES {
            let why = format!(
                "{} bytes is longer than the limit of {} bytes: use a shorter name",
                name.len(),
                Self::MAX_BYTES
            );
            return Err(Invalid::new("lock key", name, why));
        }
        Ok(Self(name))
    }

    /// The lock that the leader of `group` holds.
    ///
    /// # Errors
    ///
    /// [`Invalid`] where the group's name is empty or too long.
    pub fn of_leader(group: &str) -> Result<Self, Invalid> {
        if group.is_empty() {
            let why = "a name must not be empty: nodes with the same group share one leader";
            return Err(Invalid::new("leader group", "", why));
        }
        let name = format!("{}leader:{group}", Self::RESERVED);
        Self::new(name).map_err(|invalid| invalid.named("leader group"))
    }

    /// The same key, if a user may have it.
    pub(crate) fn not_reserved(self) -> Result<Self, Invalid> {
        if self.0.starts_with(Self::RESERVED) {
            let why = format!(
                "names that begin with {:?} belong to solocron itself: choose another",
                Self::RESERVED
            );
            return Err(Invalid::new("lock key", self.as_str(), why));
        }
        Ok(self)
    }

    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A form that is safe in a path, a key or an address: up to 40 readable characters of `[A-Za-z0-9._-]`, a dash, and the
    /// [hash](Self::hash128) as 32 hexadecimal digits. The same on every platform and in every release.
    #[must_use]
    pub fn slug(&self) -> String {
        const READABLE: usize = 40;
        let mut slug = String::with_capacity(READABLE + 33);
        for c in self.0.chars().take(READABLE) {
            // A leading dot would hide the file, a leading dash would look like an option.
            let plain = c.is_ascii_alphanumeric() || (matches!(c, '.' | '-') && !slug.is_empty());
            slug.push(if plain { c } else { '_' });
        }
        slug.push_str(&format!("-{:032x}", self.hash128()));
        slug
    }

    /// A hash of the name: SipHash-1-3 with 128 bits and a fixed key. Not a secret: it keeps names apart that differ by accident,
    /// and the full name in the record keeps apart those that collide by intent.
    #[must_use]
    pub fn hash128(&self) -> u128 {
        let mut hasher = SipHasher13::new_with_keys(0x736f_6c6f_6372_6f6e, 0x6c6f_636b_206b_6579);
        hasher.write(self.0.as_bytes());
        hasher.finish128().as_u128()
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Quoted and with control characters escaped: a name may hold anything, a log line must stay one line.
impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl TryFrom<&str> for LockKey {
    type Error = Invalid;

    fn try_from(name: &str) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

impl TryFrom<String> for LockKey {
    type Error = Invalid;

    fn try_from(name: String) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

impl TryFrom<&Self> for LockKey {
    type Error = Invalid;

    fn try_from(key: &Self) -> Result<Self, Invalid> {
        Ok(key.clone())
    }
}

impl std::str::FromStr for LockKey {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

/// A random number of one acquisition. It proves ownership and makes the acquisition repeatable: the same nonce, the same grant.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nonce(u128);

impl Nonce {
    /// A fresh nonce from the operating system's random numbers, so that nobody can guess it and no fork can repeat it.
    ///
    /// # Panics
    ///
    /// Where the operating system has no random numbers to give, which it promises never to happen after boot (`getrandom(2)`).
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
        Self(u128::from_le_bytes(bytes))
    }

    /// A nonce that was stored or sent.
    #[must_use]
    pub const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The number, for storing or sending.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        self.0
    }
}

/// Fresh [nonces](Nonce::random), of which many cost hardly more system calls than one. Not to be kept: a forked child would draw
/// the same ones from here.
pub(crate) struct Nonces {
    wanted: usize,
    drawn: [u8; Self::AT_ONCE * 16],
    left: usize,
}

impl Nonces {
    const AT_ONCE: usize = 32;

    /// So many.
    ///
    /// # Panics
    ///
    /// As [`Nonce::random`], when the next one is taken.
    pub(crate) fn random(wanted: usize) -> Self {
        Self { wanted, drawn: [0; Self::AT_ONCE * 16], left: 0 }
    }
}

impl Iterator for Nonces {
    type Item = Nonce;

    fn next(&mut self) -> Option<Nonce> {
        if self.left == 0 {
            self.left = self.wanted.min(Self::AT_ONCE);
            self.wanted -= self.left;
            let bytes = &mut self.drawn[..self.left * 16];
            getrandom::fill(bytes).expect("the operating system gives random numbers");
        }
        self.left = self.left.checked_sub(1)?;
        let (nonces, _) = self.drawn.as_chunks::<16>();
        Some(Nonce(u128::from_le_bytes(nonces[self.left])))
    }
}

/// The first 32 bits only: whoever reads a log must not be able to release a lock.
impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({:08x}…)", self.0 >> 96)
    }
}

/// One started process: host, process id, and a random number, never a host name alone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The longest text of a node, in bytes.
    pub const MAX_BYTES: usize = 128;

    /// A node for this process: `host/pid/random`. Every call makes another one.
    #[must_use]
    pub fn unique() -> Self {
        let random = (Nonce::random().as_u128() >> 96) as u32;
        Self::cut(&format!("{}/{}/{random:08x}", host(), std::process::id()))
    }

    /// A node with a name of your own, for tests and for records that were read back. Cut at [`MAX_BYTES`](Self::MAX_BYTES).
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self::cut(name)
    }

    fn cut(name: &str) -> Self {
        let mut end = name.len().min(Self::MAX_BYTES);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        Self(Arc::from(&name[..end]))
    }

    /// The text of this node.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

fn host() -> String {
    #[cfg(unix)]
    if let Ok(name) = nix::unistd::gethostname() {
        let mut name = name.to_string_lossy().into_owned();
        name.truncate(name.char_indices().nth(64).map_or(name.len(), |(at, _)| at));
        return name;
    }
    "host".to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hostile_names_make_tame_slugs() {
        for name in [
            "../../etc/passwd",
            ".hidden",
            "-rf",
            "a/b",
            "a\0b",
            "a\nb",
            "{tag}",
            "*",
            "☾",
            " ",
            "CON",
        ] {
            let slug = LockKey::new(name).unwrap().slug();
            assert!(
                slug.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
                "{name:?} -> {slug}"
            );
            assert!(!slug.starts_with(['.', '-']), "{name:?} -> {slug}");
            assert!(slug.len() <= 73, "{slug}");
        }
    }

    #[test]
    fn a_slug_is_the_same_in_every_release() {
        assert_eq!(
            LockKey::new("nightly").unwrap().slug(),
            "nightly-e32411f60060c3028e1b77e9730ec7a6"
        );
    }

    #[test]
    fn names_that_are_empty_or_too_long_are_refused_with_their_size() {
        assert!(LockKey::new("").unwrap_err().to_string().contains("empty"));
        let error = LockKey::new("x".repeat(1025)).unwrap_err().to_string();
        assert!(error.contains("1025") && error.contains("1024"), "{error}");
        assert!(LockKey::new("x".repeat(1024)).is_ok());
    }

    #[test]
    fn a_nonce_is_not_printed_whole() {
        let nonce = Nonce::random();
        assert!(!format!("{nonce:?}").contains(&format!("{:032x}", nonce.as_u128())));
    }

    #[test]
    fn nodes_and_nonces_do_not_repeat() {
        assert_eq!((0..1000).map(|_| Nonce::random()).collect::<HashSet<_>>().len(), 1000);
        assert_ne!(NodeId::unique(), NodeId::unique());
    }

    #[test]
    fn many_nonces_are_as_many_as_were_wanted_and_all_different() {
        for wanted in [0, 1, 31, 32, 33, 1000] {
            let nonces: Vec<_> = Nonces::random(wanted).collect();
            assert_eq!(nonces.len(), wanted);
            assert!(!nonces.contains(&Nonce::from_u128(0)));
            assert_eq!(nonces.into_iter().collect::<HashSet<_>>().len(), wanted);
        }
    }

    proptest! {
        #[test]
        fn different_names_have_different_slugs(a in ".{1,60}", b in ".{1,60}") {
            let (a, b) = (LockKey::new(a).unwrap(), LockKey::new(b).unwrap());
            prop_assert_eq!(a == b, a.slug() == b.slug());
        }
    }
}
