//! The Redis protocol, version 2, as far as tests speak it: a command is an array of strings, an answer one of six shapes.
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::fmt;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::time::Duration;

/// An answer of a Redis server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// No value.
    Nil,
    /// A number.
    Int(i64),
    /// A short word, like `OK`.
    Simple(String),
    /// A string of any bytes.
    Bulk(Vec<u8>),
    /// Several answers in one.
    Array(Vec<Self>),
    /// A refusal; it begins with its code, like `READONLY`.
    Error(String),
}

impl Value {
    /// The text of a string or a word.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Simple(text) => Some(text),
            Self::Bulk(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The value of a number.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// The first word of a refusal, like `READONLY`.
    #[must_use]
    pub fn error_code(&self) -> Option<&str> {
        if let Self::Error(text) = self { text.split(' ').next() } else { None }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nil => f.write_str("nil"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Simple(text) | Self::Error(text) => f.write_str(text),
            Self::Bulk(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Array(values) => f.debug_list().entries(values).finish(),
        }
    }
}

/// How long an answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One connection to a Redis server.
#[derive(Debug)]
pub(crate) struct Connection<S> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends a command and reads its answer.
    pub(crate) fn command<W: AsRef<[u8]>>(&mut self, words: &[W]) -> io::Result<Value> {
        let mut wire = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            let word = word.as_ref();
            wire.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            wire.extend_from_slice(word);
            wire.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&wire)?;
        self.read()
    }

    fn read(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {line:?}"));
        let (kind, rest) = line.split_at_checked(1).ok_or_else(bad)?;
        let number = || rest.parse::<i64>().map_err(|_| bad());
        Ok(match kind {
            "+" => Value::Simple(rest.to_owned()),
            "-" => Value::Error(rest.to_owned()),
            ":" => Value::Int(number()?),
            "$" => match usize::try_from(number()?) {
                Err(_) => Value::Nil, // -1
                Ok(length) => {
                    let mut bytes = vec![0; length + 2];
                    self.stream.read_exact(&mut bytes)?;
                    bytes.truncate(length);
                    Value::Bulk(bytes)
                }
            },
            "*" => match usize::try_from(number()?) {
                Err(_) => Value::Nil,
                Ok(length) => {
                    Value::Array((0..length).map(|_| self.read()).collect::<Result<_, _>>()?)
                }
            },
            _ => return Err(bad()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that was recorded.
    struct Tape(io::Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Tape {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for Tape {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn answer(wire: &str) -> io::Result<Value> {
        Connection::new(Tape(io::Cursor::new(wire.into()), Vec::new())).command(&["X"])
    }

    #[test]
    fn every_shape_of_an_answer_is_read() {
        let wire = "*6\r\n+OK\r\n-ERR no\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*-1\r\n";
        let shapes = vec![
            Value::Simple("OK".into()),
            Value::Error("ERR no".into()),
            Value::Int(-7),
            Value::Bulk(b"a\r\nb".into()),
            Value::Nil,
            Value::Nil,
        ];
        assert_eq!(answer(wire).unwrap(), Value::Array(shapes));
    }

    #[test]
    fn an_answer_that_breaks_off_is_an_error() {
        let whole = "*2\r\n:1\r\n$2\r\nab\r\n";
        for end in 0..whole.len() {
            assert!(answer(&whole[..end]).is_err(), "after {end} bytes");
        }
        assert!(answer("?\r\n").is_err());
    }

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut connection = Connection::new(Tape(io::Cursor::new(b"+OK\r\n".into()), Vec::new()));
        connection.command(&["SET", "a", ""]).unwrap();
        assert_eq!(connection.stream.get_ref().1, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n");
    }
}
