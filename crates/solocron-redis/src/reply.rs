//! Takes apart what the server answers. Whatever does not fit is an error, never a panic.

use redis::Value;
use solocron::{BackendError, Kind};

/// A part of an answer that does not fit, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Odd(pub(crate) &'static str);

pub(crate) type Result<T> = std::result::Result<T, Odd>;

impl From<Odd> for BackendError {
    fn from(Odd(part): Odd) -> Self {
        let why = format!(
            "redis answered with a {part} that cannot be read: see that every program of this namespace runs one release, and what else writes to its keys"
        );
        // Whatever was asked for may have been done.
        Self::new(Kind::Corrupt, why).effect_unknown()
    }
}

pub(crate) fn array(value: Value, part: &'static str) -> Result<Vec<Value>> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(Odd(part)),
    }
}

pub(crate) fn bytes<'a>(value: Option<&'a Value>, part: &'static str) -> Result<&'a [u8]> {
    match value {
        Some(Value::BulkString(bytes)) => Ok(bytes),
        Some(Value::SimpleString(text)) => Ok(text.as_bytes()),
        _ => Err(Odd(part)),
    }
}

pub(crate) fn text<'a>(value: Option<&'a Value>, part: &'static str) -> Result<&'a str> {
    std::str::from_utf8(bytes(value, part)?).map_err(|_| Odd(part))
}
