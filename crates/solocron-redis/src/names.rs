//! The names of keys and channels. All of a namespace live in one hash slot: its name is the hash tag.

use solocron::Invalid;
use solocron::lock::LockKey;

/// What every name of a namespace begins with.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    namespace: String,
    tag: String,
}

impl Names {
    /// The longest name of a namespace, in bytes.
    pub(crate) const LONGEST: usize = 64;

    pub(crate) fn of(namespace: &str) -> Result<Self, Invalid> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
        if namespace.is_empty() || namespace.len() > Self::LONGEST || !namespace.chars().all(plain)
        {
            let why = "use 1 to 64 characters of A-Z a-z 0-9 . _ - : / : it begins every key, and its braces make it the hash tag";
            return Err(Invalid::new("namespace", namespace, why));
        }
        Ok(Self { namespace: namespace.to_owned(), tag: format!("{{{namespace}}}:") })
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(crate) fn epoch(&self) -> String {
        format!("{}epoch", self.tag)
    }

    /// The record of a lock, by its [slug](LockKey::slug).
    pub(crate) fn lock(&self, slug: &str) -> String {
        format!("{}lock:{slug}", self.tag)
    }

    /// Who waits for it.
    pub(crate) fn waiters(&self, slug: &str) -> String {
        format!("{}wait:{slug}", self.tag)
    }

    /// What the channels of all nodes begin with.
    pub(crate) fn channels(&self) -> String {
        format!("{}node:", self.tag)
    }

    /// What every living node hears.
    pub(crate) fn everybody(&self) -> String {
        format!("{}nodes", self.tag)
    }

    /// A pattern for `SCAN` that matches the locks whose names begin with `prefix`, and perhaps a few more.
    pub(crate) fn locks_like(&self, prefix: &str) -> String {
        let slug = LockKey::new(prefix).map(|key| key.slug()).unwrap_or_default();
        // The readable part: what stands before the hash. It needs no escapes.
        let readable = slug.len().checked_sub(33).map_or("", |end| &slug[..end]);
        format!("{}lock:{readable}*", self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_a_namespace_share_its_hash_tag() {
        let names = Names::of("billing/prod").unwrap();
        let key = LockKey::new("a}b{c*").unwrap();
        for name in [
            names.epoch(),
            names.lock(&key.slug()),
            names.waiters(&key.slug()),
            names.channels(),
            names.everybody(),
        ] {
            assert!(name.starts_with("{billing/prod}:"), "{name}");
            assert_eq!(name.matches(['{', '}']).count(), 2, "{name}");
        }
    }

    #[test]
    fn a_prefix_becomes_a_pattern_that_matches_every_name_which_begins_so() {
        let names = Names::of("n").unwrap();
        for (prefix, name) in [
            ("", "x"),
            ("bill", "billing/a"),
            ("a*", "a*b"),
            ("é", "éa"),
            (".x", ".xy"),
            ("x", "x"),
        ] {
            let pattern = names.locks_like(prefix);
            let stem = pattern.strip_suffix('*').unwrap();
            assert!(!stem.contains(['*', '?', '[', '\\']), "{pattern}");
            assert!(
                names.lock(&LockKey::new(name).unwrap().slug()).starts_with(stem),
                "{pattern} {name}"
            );
        }
        let long = "y".repeat(100);
        assert!(
            names
                .lock(&LockKey::new(format!("{long}z")).unwrap().slug())
                .starts_with(names.locks_like(&long).trim_end_matches('*'))
        );
    }

    #[test]
    fn a_namespace_that_could_break_out_is_refused() {
        for bad in ["", "a b", "a{b", "a}b", "a*", "é", "a\0", &"x".repeat(65)] {
            assert!(Names::of(bad).is_err(), "{bad:?}");
        }
    }
}
