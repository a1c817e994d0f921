//! Who is there? Asked when a connection broke over which nothing was ever answered.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What somebody answers to the first bytes of an HTTP/2 client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stranger {
    /// HTTP/2, or nothing that would tell.
    Unknown,
    /// This, which is not HTTP/2.
    Says(String),
}

/// How HTTP/2 begins (RFC 9113, section 3.4): the preface, and an empty SETTINGS frame.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Greets an `http://` endpoint. There is no telling behind TLS.
pub(super) async fn greet(endpoint: &str, limit: Duration) -> Stranger {
    let Some(host) = endpoint.strip_prefix("http://") else { return Stranger::Unknown };
    let answer = timeout(limit, async {
        let mut stream = TcpStream::connect(host.trim_end_matches('/')).await.ok()?;
        stream.write_all(HELLO).await.ok()?;
        let mut answer = [0; 32];
        let mut count = 0;
        while count < 9 {
            match stream.read(&mut answer[count..]).await {
                Ok(0) | Err(_) => break,
                Ok(more) => count += more,
            }
        }
        Some(answer[..count].to_vec())
    });
    match answer.await {
        Ok(Some(answer)) => judge(&answer),
        _ => Stranger::Unknown,
    }
}

/// A server's first frame is SETTINGS, on stream 0.
fn judge(answer: &[u8]) -> Stranger {
    const SETTINGS: u8 = 4;
    match answer {
        [] | [_, _, _, SETTINGS, _, 0, 0, 0, 0, ..] => Stranger::Unknown,
        other => Stranger::Says(other.escape_ascii().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_http2_is_a_stranger() {
        assert_eq!(judge(b"\0\0\x06\x04\0\0\0\0\0\0\x05\0\0\x40\0"), Stranger::Unknown);
        assert_eq!(judge(b""), Stranger::Unknown);
        for other in
            [&b"HTTP/1.1 400 Bad Request"[..], b"-ERR unknown", b"\x15\x03\x01\0\x02\x02F", b"S"]
        {
            assert!(matches!(judge(other), Stranger::Says(_)), "{other:?}");
        }
        assert_eq!(judge(b"\r\n\xff"), Stranger::Says(r"\r\n\xff".to_owned()));
    }
}
